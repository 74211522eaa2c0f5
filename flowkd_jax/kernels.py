"""Pairwise kernels: how similar each row is to each other row, on a log scale.

A kernel turns features `[batch, ...]` (anything after the batch axis is flattened)
into similarities in (0, 1], with exactly 1 between a row and itself. Everything that
is built on kernels here works with logarithms, so that a similarity too small for
float32 still has a value and a gradient.

All arithmetic is float32 (float64 stays float64) at the highest matmul precision,
whatever the dtype of the features. Values and gradients are finite and meaningful for
duplicate rows, antipodal rows, zero rows and features with a large common mean.

    kernel = kernels.student_t(degree=1.0)
    similarities = kernel(features)                  # [batch, batch]
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import _blocks
from flowkd_jax import _checks
from flowkd_jax import _mesh
from flowkd_jax import _pairs
from flowkd_jax import _precision

Matrix = Float[Array, "rows columns"]
Scalar = Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A pairwise kernel; call it on features for the matrix of similarities.

  Attributes:
    name: What it is called in configurations, tables and pictures.
    log: `(pairs, bandwidth) -> [n, m]`, logarithms of the similarities.
    bandwidth: `(columns [m, d], mask [m], block_size) -> scalar`, what the kernel has
      to know of the whole batch, `block_size` rows at a time; a constant for all but
      the adaptive kernels.
  """

  name: str
  log: Callable[[_pairs.Pairs, Scalar], Matrix]
  bandwidth: Callable[[Float[Array, "m d"], Array | None, int | None], Scalar]

  @_mesh.on_any_mesh
  def __call__(
    self, features: Float[Array, "batch ..."]
  ) -> Float[Array, "batch batch"]:
    """Similarities between all rows of `features`.

    Raises:
      TypeError: If `features` is not floating point.
      ValueError: If `features` is empty or has no feature axis.
    """
    _checks.check_features(features=features)
    rows = flatten(features)
    points = _pairs.pair_points(rows, rows)
    pairs = _pairs.pair_geometry(points, points, jnp.arange(rows.shape[0]))
    return jnp.exp(self.log(pairs, self.bandwidth(rows, None, None)))


def flatten(
  features: Float[Array, "batch ..."], mask: Array | None = None
) -> Float[Array, "batch dim"]:
  """Rows as vectors of at least float32; masked rows become zeros."""
  rows = _precision.at_least_float32(features).reshape(features.shape[0], -1)
  if mask is None:
    return rows
  return jnp.where(jnp.asarray(mask).astype(bool)[:, None], rows, 0)


def unit_rows(rows: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
  """Rows divided by their Euclidean norm; a zero row stays zero, gradient too."""
  norms = _pairs.safe_power((rows**2).sum(1, keepdims=True), 0.5)
  return jnp.where(norms > 0, rows / jnp.where(norms > 0, norms, 1), 0)


def cosine() -> Kernel:
  """Cosine kernel `K = (1 + cos(a, b)) / 2`, one of the two of Passalis et al. 2020.

  A zero row has cosine 0 with every other row. Similarities are floored at the machine
  epsilon, below which they are rounding noise.
  """

  def log(pairs, bandwidth):
    del bandwidth
    gaps = pairs.cosine_gaps
    ceiling = 1 - jnp.finfo(gaps.dtype).eps
    return jnp.log1p(-jnp.where(gaps < ceiling, gaps, ceiling))

  return Kernel("cosine", log, _constant(1.0))


def student_t(degree: float = 1.0) -> Kernel:
  """Student-t kernel `K = 1 / (1 + |a - b|^degree)`, the other; degree 1 there.

  Raises:
    ValueError: If `degree` is not positive.
  """
  _checks.check_positive("degree", degree)

  def log(pairs, bandwidth):
    del bandwidth
    return -jnp.log1p(_pairs.safe_power(pairs.squared_distances, degree / 2))

  return Kernel("student_t", log, _constant(1.0))


def rbf(bandwidth: float = 1.0) -> Kernel:
  """Gaussian kernel `K = exp(-|a - b|^2 / (2 bandwidth^2))`.

  Raises:
    ValueError: If `bandwidth` is not positive.
  """
  _checks.check_positive("bandwidth", bandwidth)
  return Kernel("rbf", _log_gaussian, _constant(bandwidth))


def adaptive_rbf() -> Kernel:
  """Gaussian kernel whose bandwidth is the mean distance between distinct rows.

  The bandwidth is a constant to the gradient, and belongs to the whole batch.
  """
  return Kernel("adaptive_rbf", _log_gaussian, _mean_distance)


def cauchy(bandwidth: float = 1.0) -> Kernel:
  """Cauchy kernel `K = 1 / (1 + |a - b|^2 / bandwidth^2)`.

  Raises:
    ValueError: If `bandwidth` is not positive.
  """
  _checks.check_positive("bandwidth", bandwidth)

  def log(pairs, bandwidth):
    return -jnp.log1p(pairs.squared_distances / bandwidth**2)

  return Kernel("cauchy", log, _constant(bandwidth))


def von_mises_fisher(concentration: float = 4.0) -> Kernel:
  """Von Mises-Fisher kernel `K = exp(concentration (cos(a, b) - 1))`.

  The Gaussian kernel of rows on the unit sphere, `concentration = 1 / bandwidth^2`.
  Like `cosine` it ignores how long rows are, and tells near ones from far ones more
  sharply: 1 at the same direction, `exp(-concentration)` at a right angle (cosine: 1/2)
  and its square at the opposite (cosine: 0). A zero row has cosine 0 with every other.
  Not one of the paper's kernels; the distribution: Mardia and Jupp, "Directional
  Statistics", 2000.

  Raises:
    ValueError: If `concentration` is not positive.
  """
  _checks.check_positive("concentration", concentration)

  def log(pairs, bandwidth):
    del bandwidth
    return -2 * concentration * pairs.cosine_gaps

  return Kernel("von_mises_fisher", log, _constant(1.0))


KERNELS: dict[str, Callable[[], Kernel]] = {
  "cosine": cosine,
  "student_t": student_t,
  "rbf": rbf,
  "adaptive_rbf": adaptive_rbf,
  "cauchy": cauchy,
  "von_mises_fisher": von_mises_fisher,
}
AUTHORS_KERNELS = ("cosine", "student_t", "rbf", "adaptive_rbf", "cauchy")


def by_name(name: str) -> Kernel:
  """The kernel of that name with its default parameters.

  Raises:
    ValueError: If there is no such kernel; lists those there are.
  """
  _checks.check_choice("kernel", name, KERNELS)
  return KERNELS[name]()


def authors_kernel(name: str, epsilon: float = 1e-6) -> Kernel:
  """A kernel exactly as in the code published with the paper.

  Differs from the kernel of the same name here: distances are
  `sqrt(|a - b|^2 + epsilon)`, so a row is not quite similar to itself; vectors are
  divided by `|a| + epsilon`; `rbf` is `exp(-distance / bandwidth)`, without the
  square; the adaptive bandwidth averages over the diagonal too. Degree and bandwidth
  are 1. Where the authors' similarity is 0 or below (antipodal rows) and their loss is
  not finite, it is floored at the smallest normal number.

  Args:
    name: One of `AUTHORS_KERNELS`.
    epsilon: 1e-6 in the code of the main method, 1e-7 in that of PKT.

  Raises:
    ValueError: If there is no such kernel.
  """
  _checks.check_choice("kernel", name, AUTHORS_KERNELS)

  def distances(pairs):
    return jnp.sqrt(pairs.squared_distances + epsilon)

  def log_cosine(pairs, bandwidth):
    del bandwidth
    # (|a| + eps)(|b| + eps) differs from |a| |b| by eps (|a| + |b|) + eps^2.
    shrink = pairs.norm_products / (
      pairs.norm_products + epsilon * pairs.norm_sums + epsilon**2
    )
    similarity = ((1 - 2 * pairs.cosine_gaps) * shrink + 1) / 2
    return jnp.log(jnp.maximum(similarity, jnp.finfo(similarity.dtype).tiny))

  logs = {
    "cosine": log_cosine,
    "student_t": lambda pairs, _: -jnp.log1p(distances(pairs)),
    "cauchy": lambda pairs, _: -jnp.log1p(distances(pairs) ** 2),
    "rbf": lambda pairs, width: -distances(pairs) / width,
    "adaptive_rbf": lambda pairs, width: -distances(pairs) / width,
  }

  def adaptive(columns, mask, block_size):
    return _mean_over_pairs(columns, mask, block_size, distances, self_pairs=True)

  bandwidth = adaptive if name == "adaptive_rbf" else _constant(1.0)
  return Kernel(f"authors_{name}", logs[name], bandwidth)


def _log_gaussian(pairs, bandwidth):
  return -pairs.squared_distances / (2 * bandwidth**2)


def _mean_distance(columns, mask, block_size):
  def distances(pairs):
    return jnp.sqrt(pairs.squared_distances)

  mean = _mean_over_pairs(columns, mask, block_size, distances, self_pairs=False)
  return jnp.where(mean > 0, mean, 1)  # all rows alike: any bandwidth will do


def _mean_over_pairs(columns, mask, block_size, function, *, self_pairs):
  columns = lax.stop_gradient(columns)
  real = None if mask is None else jnp.asarray(mask).astype(bool)

  def row_sums(shared, block):
    columns, real = shared
    pairs = _pairs.pair_geometry(block[0], columns, block[1])
    valid = _pairs.valid_pairs(pairs.same, real, self_pairs=self_pairs)
    return jnp.where(valid, function(pairs), 0).sum(1)

  rows, everyone = _pairs.rows_and_columns(columns, columns, block_size)
  positions = jnp.arange(columns.shape[0], dtype=jnp.int32)
  weights = jnp.ones_like(rows.squares) if real is None else real.astype(columns.dtype)
  count = weights.sum()
  pairs_count = count * (count if self_pairs else count - 1)
  weights = weights / jnp.maximum(pairs_count, 1)
  return _blocks.sum_over_rows(
    row_sums, block_size, (everyone, real), (rows, positions), weights
  )


def _constant(value: float):
  def bandwidth(columns, mask, block_size):
    del mask, block_size
    return jnp.asarray(value, columns.dtype)

  return bandwidth
