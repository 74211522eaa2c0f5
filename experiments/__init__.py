"""Evidence of this repository: studies, tables, benchmarks, examples and results."""
