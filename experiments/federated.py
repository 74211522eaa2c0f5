"""Starts the job as `flowkd train federated` does."""

from flowkd_jax import cli

if __name__ == "__main__":
  cli.train("federated")
