"""Pairwise kernels: similarities between all rows of a batch, on a log scale.

A kernel maps features `[batch, ...]` to a matrix of similarities `[batch, batch]`. Axes
after the batch axis are flattened. Similarities are in (0, 1], and the similarity of a
row to itself is exactly 1. Every kernel computes logarithms of similarities. A
similarity that underflows in float32 therefore still has a value and a gradient.
Similarities under the cosine, Student-t and Cauchy kernels cannot underflow. These
kernels also compute similarities without logarithms, which is faster.

All arithmetic is float32 (float64 stays float64) at the highest matmul precision,
whatever the dtype of the features. Values and gradients are finite and accurate for
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
