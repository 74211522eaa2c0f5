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

import dataclasses
import functools
import math
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import named_choices
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import row_blocks
from flowkd_jax._numerics.pairwise import Pairs
from flowkd_jax._numerics.pairwise import safe_power
from flowkd_jax._numerics.pairwise import unit_of

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

_Matrix = Float[Array, "rows columns"]
_Scalar = Float[Array, ""]  # an option that is traced, learnt or scheduled


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("params",),
  meta_fields=("name", "log", "bandwidth", "direct"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
  """A pairwise kernel; call it on features for the matrix of similarities.

  A pytree whose leaves are `params`, which may be traced and differentiated.

  Attributes:
    name: What it is called in configurations, tables and pictures.
    log: `(pairs, measured) -> [n, m]`, logarithms of the similarities of some rows with
      all rows, 0 for a row with itself; `pairs` is a `Pairs`, whose distances are in
      units of `unit_of(columns)`.
    bandwidth: `(params, columns [m, d], mask [m], block_size) -> measured`, what
      the kernel has to know of the whole batch, `block_size` rows at a time. `columns`
      are the rows of all devices, masked ones zero; `mask`, `block_size` may be None.
    params: Numbers or arrays of shape ().
    direct: `(pairs, measured, means) -> similarities` without logarithms, which is
      faster; see `cauchy`. None if a similarity may be too small for float32.
  """

  name: str
  log: Callable[[Pairs, Any], _Matrix]
  bandwidth: Callable[[Any, Float[Array, "m d"], Array | None, int | None], Any]
  params: Any = ()
  direct: Callable[[Pairs, Any, pairwise.Means], pairwise.Similarities] | None = None

  def measure(
    self, columns: Float[Array, "m d"], mask: Array | None, block_size: int | None
  ) -> Any:
    """The second argument of `log`, from the rows of the whole batch."""
    return self.bandwidth(self.params, columns, mask, block_size)

  @meshes.on_any_mesh
  def __call__(
    self, features: Float[Array, "batch ..."]
  ) -> Float[Array, "batch batch"]:
    """Similarities between all rows of `features`.

    Raises:
      TypeError: If `features` is not floating point.
      ValueError: If `features` is empty or has no feature axis.
    """
    checks.check_features(features=features)
    rows = flatten(features)
    points = pairwise.pair_points(rows, rows)
    pairs = pairwise.pair_geometry(points, points, jnp.arange(rows.shape[0]))
    return jnp.exp(self.log(pairs, self.measure(rows, None, None)))


def flatten(
  features: Float[Array, "batch ..."], mask: Array | None = None
) -> Float[Array, "batch dim"]:
  """Rows as vectors of at least float32; masked rows become zeros."""
  rows = float32.at_least_float32(features).reshape(features.shape[0], -1)
  if mask is None:
    return rows
  return jnp.where(jnp.asarray(mask).astype(bool)[:, None], rows, 0)


def unit_rows(rows: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
  """Rows divided by their Euclidean norm; a zero row stays zero, gradient too."""
  # In a unit of its own no row is too short or too long to be squared.
  powers = float32.power_of_two(float32.largest_entries(rows))
  rows = rows * (1 / powers)[:, None]
  norms = pairwise.safe_power((rows**2).sum(1, keepdims=True), 0.5)
  zero = norms == 0
  return jnp.where(zero, 0, rows / jnp.where(zero, 1, norms))


def cosine() -> Kernel:
  """Cosine kernel `K = (1 + cos(a, b)) / 2`, one of the two of Passalis et al. 2020.

  A zero row has cosine 0 with every other row. Similarities are floored at the machine
  epsilon, below which they are rounding noise.
  """
  return Kernel("cosine", _log_cosine, _nothing, direct=_direct_cosine)


def student_t(degree: float | _Scalar = 1.0) -> Kernel:
  """Student-t kernel `K = 1 / (1 + |a - b|^degree)`, the second of the paper's kernels.

  Passalis et al. 2020 use degree 1.

  Raises:
    TypeError: If `degree` is not a number.
    ValueError: If `degree` is not positive.
  """
  checks.check_positive("degree", degree)
  # A root of a degree that is known is faster than a power.
  known = None if isinstance(degree, jax.Array) else float(degree)

  def bandwidth(degree, columns, *_):
    unit, limit = pairwise.unit_of(columns), _limit(columns.dtype)
    if known is not None:
      return jnp.minimum(unit**known, limit), None
    degree = float32.like(degree, columns)
    return jnp.exp(jnp.minimum(degree * jnp.log(unit), math.log(limit))), degree

  def log(pairs, measured):
    factor, degree = measured
    exponent = (degree if known is None else known) / 2
    return -jnp.log1p(factor * pairwise.safe_power(pairs.squared_distances, exponent))

  def direct(pairs, measured, means):
    factor, degree = measured
    exponent = (degree if known is None else known) / 2
    powers, typical = (
      pairwise.safe_power(each.squared_distances, exponent) for each in (pairs, means)
    )
    return _reciprocals(factor * powers, factor * typical)

  params = degree if known is None else ()
  return Kernel("student_t", log, bandwidth, params, direct)


def rbf(bandwidth: float | _Scalar = 1.0) -> Kernel:
  """Gaussian kernel `K = exp(-|a - b|^2 / (2 bandwidth^2))`.

  Raises:
    TypeError: If `bandwidth` is not a number.
    ValueError: If `bandwidth` is not positive.
  """
  checks.check_positive("bandwidth", bandwidth)
  return Kernel("rbf", _log_gaussian, _inverse_square, bandwidth)


def adaptive_rbf() -> Kernel:
  """Gaussian kernel whose bandwidth is the mean distance between distinct rows.

  The bandwidth is a constant to the gradient, and belongs to the whole batch.
  """

  def bandwidth(_, columns, mask, block_size):
    return 1 / _mean_distance(columns, mask, block_size) ** 2

  return Kernel("adaptive_rbf", _log_gaussian, bandwidth)


def cauchy(bandwidth: float | _Scalar = 1.0) -> Kernel:
  """Cauchy kernel `K = 1 / (1 + |a - b|^2 / bandwidth^2)`.

  Raises:
    TypeError: If `bandwidth` is not a number.
    ValueError: If `bandwidth` is not positive.
  """
  checks.check_positive("bandwidth", bandwidth)

  def log(pairs, factor):
    return -jnp.log1p(factor * pairs.squared_distances)

  def direct(pairs, factor, means):
    return _reciprocals(
      factor * pairs.squared_distances, factor * means.squared_distances
    )

  return Kernel("cauchy", log, _inverse_square, bandwidth, direct)


def von_mises_fisher(concentration: float | _Scalar = 4.0) -> Kernel:
  """Von Mises-Fisher kernel `K = exp(concentration (cos(a, b) - 1))`.

  The Gaussian kernel of rows on the unit sphere, `concentration = 1 / bandwidth^2`.
  Like `cosine` it ignores how long rows are, and tells near ones from far ones more
  sharply: 1 at the same direction, `exp(-concentration)` at a right angle (cosine: 1/2)
  and its square at the opposite (cosine: 0). A zero row has cosine 0 with every other.
  Not one of the paper's kernels; the distribution: Mardia and Jupp, "Directional
  Statistics", 2000.

  Raises:
    TypeError: If `concentration` is not a number.
    ValueError: If `concentration` is not positive.
  """
  checks.check_positive("concentration", concentration)

  def bandwidth(concentration, columns, *_):
    return jnp.asarray(float32.like(concentration, columns), columns.dtype)

  def log(pairs, concentration):
    return -2 * concentration * pairs.cosine_gaps

  return Kernel("von_mises_fisher", log, bandwidth, concentration)


KERNELS: dict[str, Callable[..., Kernel]] = {
  "cosine": cosine,
  "student_t": student_t,
  "rbf": rbf,
  "adaptive_rbf": adaptive_rbf,
  "cauchy": cauchy,
  "von_mises_fisher": von_mises_fisher,
}
AUTHORS_KERNELS = ("cosine", "student_t", "rbf", "adaptive_rbf", "cauchy")


# What stands for a kernel, and what for one or several, in arguments.
KernelLike = Kernel | str
KernelsLike = KernelLike | Iterable[KernelLike]


def by_name(name: str) -> Kernel:
  """The kernel of that name with its default parameter, or as in "rbf:2" another.

  Raises:
    ValueError: If there is no such kernel, which lists those there are; or if the
      parameter is not a number above 0.
  """
  return named_choices.from_text("kernel", name, KERNELS)


def as_kernel(
  kernel: KernelLike | None, *, authors: bool = False, name: str = "kernel"
) -> Kernel:
  """The kernel itself, or the one that a name as of `by_name` describes.

  Args:
    kernel: A kernel, or its name; None is cosine.
    authors: Take names for those of `authors_kernel`.
    name: Name of the argument or flag in messages.

  Raises:
    TypeError: If it is neither a kernel nor a name.
    ValueError: If there is no such kernel, or its parameter is out of range.
  """
  if isinstance(kernel, Kernel):
    return kernel
  if kernel is None:
    return authors_kernel("cosine") if authors else cosine()
  if not isinstance(kernel, str):
    raise TypeError(
      f"{name}: expected a kernel, such as kernels.student_t(), or its name, got "
      f"{getattr(kernel, '__name__', kernel)!r} of type {type(kernel).__name__}"
    )
  if not authors:
    return named_choices.from_text(name, kernel, KERNELS)
  _check_authors_name(name, kernel)
  return authors_kernel(kernel)


def as_kernels(
  kernels: KernelsLike, *, authors: bool = False, name: str = "kernels"
) -> list[Kernel]:
  """One or several kernels, each given as to `as_kernel`, as a list.

  Raises:
    TypeError: If one is neither a kernel nor a name.
    ValueError: If there is none, or one is unknown or has a parameter out of range.
  """
  given: list[Any]  # checked one by one
  if isinstance(kernels, Iterable) and not isinstance(kernels, Kernel | str):
    given = [*kernels]
  else:
    given = [kernels]
  if not given:
    raise ValueError(f"{name}: expected at least one kernel, got none")
  return [as_kernel(each, authors=authors, name=name) for each in given]


def authors_kernel(name: str, epsilon: float | _Scalar = 1e-6) -> Kernel:
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
    TypeError: If `epsilon` is not a number.
    ValueError: If there is no such kernel or `epsilon` is not positive.
  """
  _check_authors_name("kernel", name)
  checks.check_positive("epsilon", epsilon)

  def bandwidth(epsilon, columns, mask, block_size):
    unit = pairwise.unit_of(columns)
    epsilon = jnp.asarray(float32.like(epsilon, columns), columns.dtype)
    measured = jnp.minimum(unit, _limit(columns.dtype) ** 0.5), epsilon
    if name == "cosine":
      return measured
    if name != "adaptive_rbf":
      return *measured, jnp.ones_like(unit)
    width = _mean_over_pairs(
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


def _check_authors_name(what, name):
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
  vanishing = smoothed == 0  # two zero rows, and a square that underflows
  shrink = products / jnp.where(vanishing, 1, smoothed)
  similarity = ((1 - 2 * pairs.cosine_gaps) * shrink + 1) / 2
  return jnp.log(jnp.maximum(similarity, jnp.finfo(similarity.dtype).tiny))


def _nothing(params, columns, mask, block_size):
  """Measured by kernels that need to know nothing of the batch."""
  del params, columns, mask, block_size
  return ()


def _log_cosine(pairs, _):
  return jnp.log1p(-_floored(pairs.cosine_gaps))


def _direct_cosine(pairs, _, means):
  gaps = _floored(pairs.cosine_gaps)
  values = 1 - gaps
  # Not above 0.9: the excess over a minute similarity has no digits.
  typical = jnp.clip(means.cosine_gaps, 0, 0.9)[:, None]
  factors = 1 / (1 - typical)
  return pairwise.Similarities(
    values, factors, (typical - gaps) * factors, gaps, -1 / values
  )


def _floored(gaps):
  """Gaps at which similarities are at least the machine epsilon."""
  ceiling = 1 - jnp.finfo(gaps.dtype).eps
  return jnp.where(gaps >= ceiling, ceiling, gaps)


def _reciprocals(distances, typical):
  """Similarities `1 / (1 + distance)`."""
  # Below the largest number by what sums and quotients need.
  largest = float(jnp.finfo(distances.dtype).max) ** 0.93
  distances = jnp.where(distances > largest, largest, distances)
  values = 1 / (1 + distances)
  typical = lax.stop_gradient(jnp.minimum(typical, largest))[:, None]
  excesses = (typical - distances) * values
  return pairwise.Similarities(values, 1 + typical, excesses, distances, -values)


def _log_gaussian(pairs, factor):
  return -factor / 2 * pairs.squared_distances


def _inverse_square(bandwidth, columns, *_):
  """`1 / bandwidth^2`, the bandwidth in units of the batch."""
  ratio = pairwise.unit_of(columns) / float32.like(bandwidth, columns)
  return jnp.minimum(ratio, _limit(columns.dtype) ** 0.5) ** 2


def _limit(dtype) -> float:
  """Largest factor of a squared distance; sums of many products stay finite below it.

  A larger factor would make the same row the only neighbour.
  """
  return float(jnp.finfo(dtype).max) ** 0.9


def _mean_distance(columns, mask, block_size):
  """Mean distance between distinct rows, in units of the batch."""

  def distances(pairs, _):
    return jnp.sqrt(pairs.squared_distances)

  mean = _mean_over_pairs(columns, mask, block_size, distances, (), self_pairs=False)
  return jnp.where(mean == 0, 1, mean)  # all rows alike: any bandwidth will do


def _mean_over_pairs(columns, mask, block_size, function, measured, *, self_pairs):
  columns = lax.stop_gradient(columns)
  real = None if mask is None else jnp.asarray(mask).astype(bool)

  def row_sums(shared, block):
    columns, real, measured = shared
    pairs = pairwise.pair_geometry(block[0], columns, block[1])
    valid = pairwise.valid_pairs(pairs.same, real, self_pairs=self_pairs)
    return jnp.where(valid, function(pairs, measured), 0).sum(1)

  rows, everyone = pairwise.rows_and_columns(columns, columns, block_size)
  positions = jnp.arange(columns.shape[0], dtype=jnp.int32)
  weights = jnp.ones_like(rows.squares) if real is None else real.astype(columns.dtype)
  count = weights.sum()
  pairs_count = count * (count if self_pairs else count - 1)
  weights = weights / jnp.maximum(pairs_count, 1)
  return row_blocks.sum_over_rows(
    row_sums, block_size, (everyone, real, measured), (rows, positions), weights
  )
