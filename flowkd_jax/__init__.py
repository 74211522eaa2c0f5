"""Knowledge distillation by information-flow matching, for JAX.

    from flowkd_jax import losses

    loss = losses.information_flow(student_taps, teacher_taps)  # {name: array}

Importing this package loads JAX, jaxtyping and optax, and nothing else. The rooms
that need more are imported by name: `flowkd_jax.models`, `capture`, `data`,
`evaluation`, `methods`, `train`, `report`.
"""

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
