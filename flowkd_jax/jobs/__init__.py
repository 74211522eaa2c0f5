"""Training jobs: their settings, their stages, and what runs these in a work directory.

A job is a module with a dataclass `Config` of settings, `configure(**given)`, which
checks them, and `run(config)`. Jobs know no command line; `flowkd_jax.cli` starts them.

    from flowkd_jax import jobs
    job = jobs.load("information_flow")
    job.run(job.configure(dataset="digits", workdir="runs/digits"))
"""

import importlib
from types import ModuleType

# The jobs by name, each with what it trains.
JOBS = {
  "information_flow": "information flow (Passalis et al., CVPR 2020)",
  "distill": "any losses of the library, by name",
  "similarity_preserving": "similarities of a batch (Tung, Mori, ICCV 2019)",
  "hierarchical_self_supervised": "classes and rotations (Yang et al., IJCAI 2021)",
  "online_ensemble": "students of many widths (Walawalkar, ECCV 2020)",
  "domain_generalization": "unseen domains, KDDG (Wang et al., ACM MM 2021)",
  "federated": "FedAvg, FedProx, FedGen (Zhu et al., ICML 2021)",
}


def load(name: str) -> ModuleType:
  """Imports a job by its name, one of `JOBS`.

  Raises:
    ValueError: If there is no such job.
    ModuleNotFoundError: If a package of `flowkd_jax[train]` is not installed.
  """
  if name not in JOBS:
    raise ValueError(f"name: expected one of {', '.join(JOBS)}, got {name!r}")
  return importlib.import_module(f"{__name__}.{name}")


__all__ = ["JOBS", "load"]
