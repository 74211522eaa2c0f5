"""Pairwise kernels: how similar each row is to each other row, on a log scale.

A kernel turns features `[batch, ...]` (anything after the batch axis is flattened)
into similarities in (0, 1], with exactly 1 between a row and itself. Every kernel gives
logarithms of similarities, so that one too small for float32 still has a value and a
gradient. Kernels without such similarities (cosine, Student-t, Cauchy) give them
directly too, which is faster.

All arithmetic is float32 (float64 stays float64) at the highest matmul precision,
whatever the dtype of the features. Values and gradients are finite and meaningful for
duplicate rows, antipodal rows, zero rows and features with a large common mean.

    kernel = kernels.student_t(degree=1.0)
    similarities = kernel(features)                  # [batch, batch]
"""

from flowkd_jax._numerics.pairwise import Pairs
from flowkd_jax._numerics.pairwise import safe_power
from flowkd_jax._numerics.pairwise import unit_of
from flowkd_jax.kernels._authors import AUTHORS_KERNELS
from flowkd_jax.kernels._authors import authors_kernel
from flowkd_jax.kernels._families import adaptive_rbf
from flowkd_jax.kernels._families import cauchy
from flowkd_jax.kernels._families import cosine
from flowkd_jax.kernels._families import rbf
from flowkd_jax.kernels._families import student_t
from flowkd_jax.kernels._families import von_mises_fisher
from flowkd_jax.kernels._kernel import Kernel
from flowkd_jax.kernels._kernel import flatten
from flowkd_jax.kernels._kernel import unit_rows
from flowkd_jax.kernels._names import KERNELS
from flowkd_jax.kernels._names import KernelLike
from flowkd_jax.kernels._names import KernelsLike
from flowkd_jax.kernels._names import as_kernel
from flowkd_jax.kernels._names import as_kernels
from flowkd_jax.kernels._names import by_name

__all__ = [
  "AUTHORS_KERNELS",
  "KERNELS",
  "Kernel",
  "KernelLike",
  "KernelsLike",
  "Pairs",
  "adaptive_rbf",
  "as_kernel",
  "as_kernels",
  "authors_kernel",
  "by_name",
  "cauchy",
  "cosine",
  "flatten",
  "rbf",
  "safe_power",
  "student_t",
  "unit_of",
  "unit_rows",
  "von_mises_fisher",
]
