"""Divergences of conditional probabilities from similarities, without their logarithms.

This is the fast path for kernels whose similarities cannot underflow. A pair costs one
logarithm, that of the ratio of student and teacher. `conditional_log_probabilities`
needs a logarithm and an exponential on each side. The gradient is written by hand, so
nothing is computed for it again. Probabilities are multiplied by the number of valid
columns `n`:

    s_ij = K_ij / mean_k K_ik = n p_ij

If all similarities of a row are nearly equal, `s` is near 1. Then `s - 1` is computed
from the excesses of `pairwise.Similarities`, which keep the digits of the differences.
With `L = log s - log t`, the term D of a divergence and its derivative `D_s`,

    d sum_j D_ij / d log K_ij = s_ij D_s - s_ij mean_k(s_ik D_s)
"""

import functools
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax import kernels
from flowkd_jax._numerics import pairwise
from flowkd_jax.information import _divergences

Matrix = Float[Array, "rows columns"]


class _Pairs(NamedTuple):
  """Scaled probabilities of student and teacher at every pair.

  Attributes:
    student: `s`.
    teacher: `t`.
    difference: `s - t`, with the accuracy of the excesses.
    gap: `(s - t) / (s + t)` where `near` is True, and unspecified elsewhere.
    log_ratio: `L`. Where `near` is True, it is accurate relative to its size.
    near: True where `s` and `t` differ by less than a factor of about 1.3.
  """

  student: Matrix
  teacher: Matrix
  difference: Matrix
  gap: Matrix
  log_ratio: Matrix
  near: Bool[Array, "rows columns"]


class _Terms(NamedTuple):
  """Terms of a divergence and their derivatives.

  Attributes:
    values: `D`.
    slopes: `s D_s` for the student and `t D_t` for the teacher.
    means: A matrix for each side whose mean over a row is the mean of its slopes, and
      which may be cheaper or more accurate to sum. None if the mean is 0.
  """

  values: Matrix
  slopes: tuple[Matrix, Matrix]
  means: tuple[Matrix | None, Matrix | None]


def _jeffreys(pairs: _Pairs) -> _Terms:
  student, teacher = (side * pairs.log_ratio for side in (pairs.student, pairs.teacher))
  # The means leave out the difference, whose mean over a row is 0 but for rounding.
  return _Terms(
    pairs.difference * pairs.log_ratio,
    (student + pairs.difference, -teacher - pairs.difference),
    (student, -teacher),
  )


def _kullback_leibler(pairs: _Pairs) -> _Terms:
  gap, teacher = pairs.gap, pairs.teacher * pairs.log_ratio
  # Near equality the term is of second order in the gap. The difference of two terms of
  # first order would have no digits left.
  sums = pairs.student + pairs.teacher
  second_order = sums * gap**2 * (1 - (1 - gap) * gap * _series(gap**2))
  values = jnp.where(pairs.near, second_order, pairs.difference - teacher)
  return _Terms(values, (pairs.difference, -teacher), (None, -teacher))


DIRECT: dict[_divergences.Divergence, Callable[[_Pairs], _Terms]] = {
  _divergences.jeffreys: _jeffreys,
  _divergences.kullback_leibler: _kullback_leibler,
}


def is_direct(kernel: kernels.Kernel, divergence: _divergences.Divergence) -> bool:
  """True if `row_divergences` supports this kernel with this divergence."""
  return kernel.direct is not None and divergence in DIRECT


def row_divergences(
  divergence: _divergences.Divergence,
  similarities: Sequence[tuple[pairwise.Similarities, pairwise.Similarities]],
  valid: Bool[Array, "rows columns"],
  count: Float[Array, ""],
) -> Float[Array, " rows"]:
  """Divergence of each row: sums over the valid columns, summed over kernels.

  Args:
    divergence: A key of `DIRECT`. It compares probabilities multiplied by `count`.
    similarities: Similarities of student and teacher under each kernel.
    valid: True for columns that take part in the sum.
    count: Number of valid columns, a constant to the gradient.
  """
  return _row_sums(DIRECT[divergence], tuple(similarities), valid, count)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _row_sums(divergence, similarities, valid, count):
  terms = [divergence(_compare(sides, valid, count)) for sides in similarities]
  return _sum_of_values(terms, valid)


@functools.partial(_row_sums.defjvp, symbolic_zeros=True)
def _row_sums_jvp(divergence, primals, tangents):
  # `symbolic_zeros` tells which side is a constant, usually the teacher: its slopes are
  # not computed.
  similarities, valid, count = primals
  compared = [_compare(sides, valid, count) for sides in similarities]
  terms = [divergence(pairs) for pairs in compared]
  values = _sum_of_values(terms, valid)
  change = jnp.zeros_like(values)
  for sides, changes, pairs, each in zip(
    similarities, tangents[0], compared, terms, strict=True
  ):
    for index, side in enumerate(sides):
      # All similarities are functions of their coordinates, so these carry the gradient
      # alone. Values, factors and excesses count as constants.
      coordinates = changes[index].coordinates
      if not isinstance(coordinates, SymbolicZero):
        slopes = side.slopes * _slopes(pairs[index], each, index, valid, count)
        change += (jnp.where(valid, slopes, 0) * coordinates).sum(1)
  return values, change


def _slopes(shares, terms, index, valid, count):
  """Derivative of the sum of a row with respect to log similarities of one side."""
  slopes, averaged = terms.slopes[index], terms.means[index]
  if averaged is None:
    return slopes
  return slopes - shares * (jnp.where(valid, averaged, 0).sum(1, keepdims=True) / count)


def _sum_of_values(terms, valid):
  values = functools.reduce(jnp.add, (each.values for each in terms))
  return jnp.where(valid, values, 0).sum(1)


def _compare(sides, valid, count) -> _Pairs:
  (s, s_excess), (t, t_excess) = (_normalised(side, valid, count) for side in sides)
  # A small `s` has an excess near -1, with fewer digits than `s` itself. Above the
  # mean, the excess is the more accurate of the two.
  difference = jnp.where(s + t < 1, s - t, s_excess - t_excess)
  return _Pairs(s, t, difference, *_log_ratio(difference, s, t))


def _normalised(side, valid, count):
  """Similarities divided by the mean of their row, and the same minus 1."""
  mean = jnp.where(valid, side.excesses, 0).sum(1, keepdims=True) / count
  # If all similarities of a row are rounding noise, their mean is noise too and may be
  # 0 or negative.
  smallest = jnp.finfo(mean.dtype).eps
  inverse = 1 / jnp.where(1 + mean < smallest, smallest, 1 + mean)
  return side.values * (side.factors * inverse), (side.excesses - mean) * inverse


def _log_ratio(difference, s, t):
  """The gap `(s - t) / (s + t)`, `log(s / t)`, and a mask where the gap is small.

  Where the mask is False, the gap may be that of `s` and a scaled `t`.
  """
  if s.dtype == jnp.float64:
    gap = difference / (s + t)
    near = jnp.abs(gap) < 0.125
    return gap, jnp.where(near, _log_of_gap(gap), jnp.log(s / t)), near
  # s / t = 2^k m with m from sqrt(1/2) to sqrt(2). The exponent k comes from the bits
  # of the quotient, and log m from a short series in the gap. This is cheaper than a
  # logarithm, and it keeps the digits that the logarithm of a quotient near 1 loses.
  bits = lax.bitcast_convert_type(s / t, jnp.int32)
  powers = lax.shift_right_arithmetic(bits - _ROOT_OF_HALF, 23)
  # 127 is the bias of float32 exponents: these are the bits of 2^k.
  scaled = t * lax.bitcast_convert_type((powers + 127) << 23, jnp.float32)
  near = powers == 0
  gap = jnp.where(near, difference, s - scaled) / (s + scaled)
  return gap, powers.astype(s.dtype) * math.log(2) + _log_of_gap(gap), near


_ROOT_OF_HALF = 0x3F3504F3  # the bits of sqrt(1/2)


def _log_of_gap(gap):
  """Logarithm `log((1 + gap) / (1 - gap))` for small gaps."""
  return 2 * (gap + gap**3 * _series(gap**2))


def _series(square):
  """Series of `(atanh(x) / x - 1) / x^2` in `x^2`.

  It is accurate for `|x|` below 0.18 in float32, and below 1/8 in float64.
  """
  series = jnp.zeros_like(square)
  terms = 10 if square.dtype == jnp.float64 else 4
  for power in range(terms, 0, -1):
    series = series * square + 1 / (2 * power + 1)
  return series
