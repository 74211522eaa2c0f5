"""Knowledge distillation by information-flow matching, for JAX.

    from flowkd_jax import losses
    loss = losses.information_flow(student_taps, teacher_taps)  # {name: array}

`import flowkd_jax` loads no subpackage. Each subpackage is loaded when it is first
used. Those of the core (`flow`, `information`, `kernels`, `losses`, `parallel`,
`pooling`, `schedules`) need JAX, jaxtyping and optax. The others (`models`, `capture`,
`data`, `evaluation`, `teacher_cache`, `methods`, `train`, `report`, `jobs`) belong to
the extra `flowkd_jax[train]`.
"""

import importlib
import typing

from flowkd_jax import _extra

if typing.TYPE_CHECKING:
  from flowkd_jax import flow
  from flowkd_jax import information
  from flowkd_jax import kernels
  from flowkd_jax import losses
  from flowkd_jax import parallel
  from flowkd_jax import pooling
  from flowkd_jax import schedules

__version__ = "0.2.0"

__all__ = [
  "flow",
  "information",
  "kernels",
  "losses",
  "parallel",
  "pooling",
  "schedules",
]
_OF_THE_EXTRA = (*_extra.ROOMS, "jobs")


def __getattr__(name: str) -> typing.Any:
  if name in __all__ or name in _OF_THE_EXTRA:
    # The import system stores the module as an attribute, so this runs once for each.
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  """Names that can be used. Parts of the extra are listed if they are installed."""
  rooms = [room for room in _extra.ROOMS if not _extra.missing(_extra.ROOMS[room])]
  return sorted({*globals(), *__all__, *rooms, "jobs"})
