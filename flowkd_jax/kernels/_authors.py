"""Kernels exactly as in the code published with the paper."""

import jax.numpy as jnp

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import pairwise
from flowkd_jax.kernels._kernel import Kernel
from flowkd_jax.kernels._kernel import Scalar
from flowkd_jax.kernels._kernel import largest_factor
from flowkd_jax.kernels._kernel import mean_over_pairs

AUTHORS_KERNELS = ("cosine", "student_t", "rbf", "adaptive_rbf", "cauchy")


def authors_kernel(name: str, epsilon: float | Scalar = 1e-6) -> Kernel:
  """A kernel exactly as in the code published with the paper.

  Differs from the kernel of the same name in `KERNELS`:

  - Distances are `sqrt(|a - b|^2 + epsilon)`, so the similarity of a row to itself is
    slightly below 1.
  - `cosine` divides vectors by `|a| + epsilon`.
  - `rbf` is `exp(-distance / bandwidth)`, without the square.
  - The adaptive bandwidth is a mean over all pairs, the diagonal included.

  The degree and the bandwidth are 1. For antipodal rows the authors' similarity is 0 or
  below and their loss is not finite. Here it is floored at the smallest normal number.

  Args:
    name: One of `AUTHORS_KERNELS`.
    epsilon: Constant added to squared distances and to norms. The code of the main
      method has 1e-6, the code of PKT 1e-7.

  Raises:
    TypeError: If `epsilon` is not a number.
    ValueError: If `name` is not in `AUTHORS_KERNELS`, or `epsilon` is not positive.
  """
  check_authors_name("kernel", name)
  checks.check_positive("epsilon", epsilon)

  def bandwidth(epsilon, columns, mask, block_size):
    unit = pairwise.unit_of(columns)
    epsilon = jnp.asarray(float32.like(epsilon, columns), columns.dtype)
    # Epsilon is absolute, so distances are in units of the features, not of the batch.
    # The cap keeps `unit**2` times a squared distance finite.
    measured = jnp.minimum(unit, largest_factor(columns.dtype) ** 0.5), epsilon
    if name == "cosine":
      return measured
    if name != "adaptive_rbf":
      return *measured, jnp.ones_like(unit)
    width = mean_over_pairs(
      columns, mask, block_size, _authors_distances, measured, self_pairs=True
    )
    return *measured, width

  logs = {
    "cosine": _authors_log_cosine,
    "student_t": lambda pairs, each: -jnp.log1p(_authors_distances(pairs, each)),
    "cauchy": lambda pairs, each: -jnp.log1p(_authors_distances(pairs, each) ** 2),
    "rbf": lambda pairs, each: -_authors_distances(pairs, each) / each[2],
    "adaptive_rbf": lambda pairs, each: -_authors_distances(pairs, each) / each[2],
  }
  return Kernel(f"authors_{name}", logs[name], bandwidth, epsilon)


def check_authors_name(what, name):
  """Raises ValueError unless the authors' code has a kernel of this name."""
  if name not in AUTHORS_KERNELS:
    raise ValueError(
      f"{what}: expected one of {', '.join(AUTHORS_KERNELS)}, got {name!r}; the "
      "authors' code has these, without parameters"
    )


def _authors_distances(pairs, measured):
  unit, epsilon, *_ = measured
  return jnp.sqrt(unit**2 * pairs.squared_distances + epsilon)


def _authors_log_cosine(pairs, measured):
  unit, epsilon = measured
  # (|a| + eps)(|b| + eps) differs from |a| |b| by eps (|a| + |b|) + eps^2.
  products = unit**2 * pairs.norm_products
  smoothed = products + epsilon * unit * pairs.norm_sums + epsilon**2
  vanishing = smoothed == 0  # two zero rows, where the square of epsilon underflows
  shrink = products / jnp.where(vanishing, 1, smoothed)
  similarity = ((1 - 2 * pairs.cosine_gaps) * shrink + 1) / 2
  return jnp.log(jnp.maximum(similarity, jnp.finfo(similarity.dtype).tiny))
