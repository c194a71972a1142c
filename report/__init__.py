"""Figures: learning curves and comparisons."""
