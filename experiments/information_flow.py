"""Starts the job as `flowkd train information_flow` does."""

from flowkd_jax import cli

if __name__ == "__main__":
  cli.train("information_flow")
