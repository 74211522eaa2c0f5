"""Starts the job as `flowkd train distill` does."""

from flowkd_jax import cli

if __name__ == "__main__":
  cli.train("distill")
