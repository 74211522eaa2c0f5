"""The evidence of this repository: studies, tables, benchmarks, examples, results."""
