"""Training jobs: their settings, their stages, and what runs these in a work directory.

A job is a module with a dataclass `Config` of settings, `configure(**given)`, which
checks them, and `run(config)`. Jobs know no command line; `flowkd_jax.cli` starts them.
"""
