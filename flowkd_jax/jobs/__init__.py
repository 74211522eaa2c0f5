"""Training jobs: their settings, their stages, and what runs these in a work directory.

A job is a module with a dataclass `Config` of settings, `configure(**given)`, which
checks them, and `run(config)`. Jobs know no command line; `flowkd_jax.cli` starts them.

    from flowkd_jax import jobs
    job = jobs.load("information_flow")
    job.run(job.configure(dataset="digits", workdir="runs/digits"))
"""

import importlib
from types import ModuleType

JOBS = (
  "information_flow",
  "similarity_preserving",
  "hierarchical_self_supervised",
  "online_ensemble",
  "domain_generalization",
  "federated",
)


def load(name: str) -> ModuleType:
  """Imports a job by its name, one of `JOBS`."""
  return importlib.import_module(f"{__name__}.{name}")


__all__ = ["JOBS", "load"]
