"""Starts the job as `flowkd train similarity_preserving` does."""

from flowkd_jax import cli

if __name__ == "__main__":
  cli.train("similarity_preserving")
