"""Training jobs: settings, stages, and their execution in a work directory.

A job is a module with a dataclass `Config` of settings, a function `configure(**given)`
that checks settings, a function `select(config, runner)` that returns the stages, and a
function `run(config)`. Jobs do not read the command line; `flowkd_jax.cli` starts them.

    from flowkd_jax import jobs
    job = jobs.load("information_flow")
    job.run(job.configure(dataset="digits", workdir="runs/digits"))
"""

import importlib
from types import ModuleType

# Jobs by name, with a description of what each trains.
JOBS = {
  "information_flow": "information flow (Passalis et al., CVPR 2020)",
  "distill": "any losses of the library, chosen by name",
  "similarity_preserving": "similarities in a batch (Tung, Mori, ICCV 2019)",
  "hierarchical_self_supervised": "classes and rotations (Yang et al., IJCAI 2021)",
  "online_ensemble": "students of many widths (Walawalkar, ECCV 2020)",
  "domain_generalization": "unseen domains, KDDG (Wang et al., ACM MM 2021)",
  "federated": "FedAvg, FedProx, FedGen (Zhu et al., ICML 2021)",
}


def load(name: str) -> ModuleType:
  """Import the module of a job by its name, one of `JOBS`.

  Raises:
    ValueError: If there is no such job.
    ModuleNotFoundError: If a package of `flowkd_jax[train]` is not installed.
  """
  if name not in JOBS:
    raise ValueError(f"name: expected one of {', '.join(JOBS)}, got {name!r}")
  return importlib.import_module(f"{__name__}.{name}")


def name_of(config: object) -> str:
  """The name of the job whose settings these are; that of their module if none is."""
  found = (name for name in JOBS if load(name).Config is type(config))
  return next(found, type(config).__module__)


__all__ = ["JOBS", "load", "name_of"]
