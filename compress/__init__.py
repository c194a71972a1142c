"""Compression: one teacher, one smaller student, the same modality. Holds what only that needs: the benchmark table,
the cost of a network, its export.
"""
