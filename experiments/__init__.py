"""Experiments: one file each, launched with `python -m experiments.NAME`."""
