"""Benchmarks: speed, memory, precision, and what survives kills and damaged files."""
