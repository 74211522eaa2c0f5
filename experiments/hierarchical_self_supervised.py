"""Starts the job as `flowkd train hierarchical_self_supervised` does."""

from flowkd_jax import cli

if __name__ == "__main__":
  cli.train("hierarchical_self_supervised")
