"""Starts the job as `flowkd train online_ensemble` does."""

from flowkd_jax import cli

if __name__ == "__main__":
  cli.train("online_ensemble")
