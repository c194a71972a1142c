"""Figures that matplotlib draws, on which everything else may build."""
