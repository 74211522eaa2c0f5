"""Kernel families: cosine, Student-t, Gaussian, Cauchy and von Mises-Fisher."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import pairwise
from flowkd_jax.kernels._kernel import Kernel
from flowkd_jax.kernels._kernel import Scalar
from flowkd_jax.kernels._kernel import largest_factor
from flowkd_jax.kernels._kernel import mean_over_pairs


def cosine() -> Kernel:
  """Cosine kernel `K = (1 + cos(a, b)) / 2`, the first of the paper's two kernels.

  The kernel of Passalis et al. 2020. A zero row has cosine 0 with every other row.
  Similarities are floored at the machine epsilon, because smaller ones are rounding
  noise.
  """
  return Kernel("cosine", _log_cosine, _nothing, direct=_direct_cosine)


def student_t(degree: float | Scalar = 1.0) -> Kernel:
  """Student-t kernel `K = 1 / (1 + |a - b|^degree)`, the second of the paper's kernels.

  Args:
    degree: Exponent of the distance. Passalis et al. 2020 use 1. May be traced.

  Raises:
    TypeError: If `degree` is not a number.
    ValueError: If `degree` is not positive.
  """
  checks.check_positive("degree", degree)
  # With a known exponent `safe_power` takes a square root where it can: it is faster.
  known = None if isinstance(degree, jax.Array) else float(degree)

  def bandwidth(degree, columns, *_):
    unit, limit = pairwise.unit_of(columns), largest_factor(columns.dtype)
    if known is not None:
      return jnp.minimum(unit**known, limit), None
    degree = float32.like(degree, columns)
    # Capped before `exp`: a power that overflows would make the gradient 0 * inf = NaN.
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


def rbf(bandwidth: float | Scalar = 1.0) -> Kernel:
  """Gaussian kernel `K = exp(-|a - b|^2 / (2 bandwidth^2))`.

  Args:
    bandwidth: Standard deviation of the Gaussian, in the units of the features. May be
      traced.

  Raises:
    TypeError: If `bandwidth` is not a number.
    ValueError: If `bandwidth` is not positive.
  """
  checks.check_positive("bandwidth", bandwidth)
  return Kernel("rbf", _log_gaussian, _inverse_square, bandwidth)


def adaptive_rbf() -> Kernel:
  """Gaussian kernel whose bandwidth is the mean distance between distinct rows.

  One bandwidth serves the whole batch. It is a constant to the gradient.
  """

  def bandwidth(_, columns, mask, block_size):
    return 1 / _mean_distance(columns, mask, block_size) ** 2

  return Kernel("adaptive_rbf", _log_gaussian, bandwidth)


def cauchy(bandwidth: float | Scalar = 1.0) -> Kernel:
  """Cauchy kernel `K = 1 / (1 + |a - b|^2 / bandwidth^2)`.

  Args:
    bandwidth: Distance at which the similarity is 1/2, in the units of the features.
      May be traced.

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


def von_mises_fisher(concentration: float | Scalar = 4.0) -> Kernel:
  """Von Mises-Fisher kernel `K = exp(concentration (cos(a, b) - 1))`.

  It is the Gaussian kernel of rows on the unit sphere, with
  `concentration = 1 / bandwidth^2`. Like `cosine` it ignores the norms of rows, and it
  separates near rows from far rows more sharply: the similarity is 1 for equal
  directions, `exp(-concentration)` at a right angle (cosine kernel: 1/2) and
  `exp(-2 concentration)` for opposite directions (cosine kernel: 0). A zero row has
  cosine 0 with every other row. The paper does not use this kernel. For the
  distribution see Mardia and Jupp, "Directional Statistics", 2000.

  Args:
    concentration: Concentration of the distribution, without units. May be traced.

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


def _nothing(params, columns, mask, block_size):
  """Bandwidth of a kernel without parameters and without units."""
  del params, columns, mask, block_size
  return ()


def _log_cosine(pairs, _):
  return jnp.log1p(-_floored(pairs.cosine_gaps))


def _direct_cosine(pairs, _, means):
  gaps = _floored(pairs.cosine_gaps)
  values = 1 - gaps
  # The factor 1 / (1 - typical) scales a row to similarities of order one. At gaps near
  # 1 the similarity has no accurate digits, and the factor would enlarge its rounding.
  typical = jnp.clip(means.cosine_gaps, 0, 0.9)[:, None]
  factors = 1 / (1 - typical)
  return pairwise.Similarities(
    values, factors, (typical - gaps) * factors, gaps, -1 / values
  )


def _floored(gaps):
  """Cosine gaps, capped so that similarities are at least the machine epsilon."""
  ceiling = 1 - jnp.finfo(gaps.dtype).eps
  # A comparison lets NaN pass. XLA on CPUs loses NaN in some minima and maxima.
  return jnp.where(gaps >= ceiling, ceiling, gaps)


def _reciprocals(distances, typical):
  """Similarities `1 / (1 + distance)` with their excesses over a typical one.

  Args:
    distances: Distances of all pairs, `[n, m]`, in the units of the kernel.
    typical: A typical distance of each row, `[n]`.
  """
  # Sums over a row and quotients of two such numbers must not overflow.
  largest = float(jnp.finfo(distances.dtype).max) ** 0.93
  distances = jnp.where(distances > largest, largest, distances)
  values = 1 / (1 + distances)
  typical = lax.stop_gradient(jnp.minimum(typical, largest))[:, None]
  excesses = (typical - distances) * values
  return pairwise.Similarities(values, 1 + typical, excesses, distances, -values)


def _log_gaussian(pairs, factor):
  return -factor / 2 * pairs.squared_distances


def _inverse_square(bandwidth, columns, *_):
  """`1 / bandwidth^2`, with the bandwidth in units of the batch."""
  ratio = pairwise.unit_of(columns) / float32.like(bandwidth, columns)
  return jnp.minimum(ratio, largest_factor(columns.dtype) ** 0.5) ** 2


def _mean_distance(columns, mask, block_size):
  """Mean distance between distinct rows, in units of the batch."""

  def distances(pairs, _):
    return jnp.sqrt(pairs.squared_distances)

  mean = mean_over_pairs(columns, mask, block_size, distances, (), self_pairs=False)
  # All rows are equal: every bandwidth gives the same similarities.
  return jnp.where(mean == 0, 1, mean)
