"""`python -m flowkd_jax`: the command `flowkd`."""

from flowkd_jax import cli

cli.main()
