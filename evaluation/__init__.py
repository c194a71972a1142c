"""Measures runs: accuracy, probe suites, diversity of teachers, cost, several seeds, and the environment; functions
that return typed results.
"""
