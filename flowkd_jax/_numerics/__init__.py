"""Numerical base of the core: pairs of rows, blocks of rows, float32, checks."""
