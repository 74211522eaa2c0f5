"""Numerical base of the core: pairs of rows, blocks of rows, dtypes, meshes, checks."""
