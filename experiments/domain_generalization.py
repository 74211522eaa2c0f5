"""Starts the job as `flowkd train domain_generalization` does."""

from flowkd_jax import cli

if __name__ == "__main__":
  cli.train("domain_generalization")
