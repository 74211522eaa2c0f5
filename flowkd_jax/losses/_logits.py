"""Logits of student and teacher: checks, conversion to rows, temperature.

Logits are `[batch, classes]`, or have more axes in between, such as `[batch, tokens,
vocabulary]` or maps. Every position is then a row. A mask has one entry per example,
`[batch]`, or one per row.
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import label_rule

# A number, or an array that may be traced and differentiated.
Option = float | Float[Array, "..."]
Mask = Shaped[Array, "batch *positions"] | None

# Constant added to the standard deviation, as in the authors' code of logit
# standardisation.
EPSILON = 1e-7


class Rows(NamedTuple):
  """Logits of one or two sides as rows, in their own dtype.

  Attributes:
    sides: Logits of each side. Masked rows are as given and may hold anything.
    mask: True for real rows, or None if all rows are real.
    leading: Shape of the logits without the axis of classes.
  """

  sides: tuple[Float[Array, "rows classes"], ...]
  mask: Bool[Array, " rows"] | None
  leading: tuple[int, ...]

  def mean(
    self, rows: Float[Array, " rows"], axis_name: str | None
  ) -> Float[Array, ""]:
    """Mean over the real rows of the global batch, or 0 without a real row."""
    return parallel.global_mean(rows, self.mask, axis_name)

  def at_least_float32(self) -> list[Float[Array, "rows classes"]]:
    """Both sides in float32 or wider, with masked rows set to 0."""
    return [real_logits(side, self.mask) for side in self.sides]


def read(mask: Mask, **sides: Float[Array, "batch *positions classes"]) -> Rows:
  """Checks logits and flattens all axes but the last.

  Args:
    mask: True for real examples, or for real rows.
    **sides: Logits by the names of the arguments, which appear in error messages.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If shapes disagree, or there are fewer than two axes or two classes.
  """
  (first, logits), *others = sides.items()
  check_logits(first, logits)
  for name, other in others:
    checks.check_floating(name, other)
    checks.check_shape(name, other, logits.shape)
  leading = tuple(logits.shape[:-1])
  rows = [jnp.asarray(side).reshape(-1, logits.shape[-1]) for side in sides.values()]
  return Rows(tuple(rows), read_mask(mask, leading), leading)


def read_labelled(
  mask: Mask,
  labels: Int[Array, "batch *positions"],
  **sides: Float[Array, "batch *positions classes"],
) -> tuple[Rows, label_rule.Labels]:
  """Checks and flattens logits and labels. Rows without a label are masked.

  Args:
    mask: True for real examples, or for real rows.
    labels: Class of each row, negative for a row without a label.
    **sides: Logits by the names of the arguments, as in `read`.

  Raises:
    TypeError: If logits are not floating point, or labels are not integers.
    ValueError: If shapes disagree, there are fewer than two axes or two classes, or a
      label in a NumPy array is at or above the number of classes.
  """
  rows = read(mask, **sides)
  whole = None if rows.mask is None else rows.mask.reshape(rows.leading)
  classes = rows.sides[0].shape[1]
  found = label_rule.read_labels(labels, classes, shape=rows.leading, mask=whole)
  flat = label_rule.Labels(*(each.reshape(-1) for each in found))
  return rows._replace(mask=flat.labelled), flat


def check_logits(name: str, logits: Any) -> None:
  """Raises unless logits are floating-point [batch, ..., classes], classes above 1."""
  checks.check_features(**{name: logits})
  if logits.shape[-1] == 1:
    raise ValueError(
      f"{name}: expected logits of two or more classes, got shape {logits.shape}, "
      "whose softmax is 1 in every row; for a binary problem use two logits"
    )


def read_mask(mask: Mask, leading: tuple[int, ...]) -> Any:
  """Mask with one boolean per row.

  A mask in NumPy or a list stays on the host, where labels are checked with it.

  Args:
    mask: Mask with one entry per example or per row, or None.
    leading: Shape of the logits without the axis of classes.

  Raises:
    ValueError: If the mask has another shape.
  """
  if mask is None:
    return None
  if np.shape(mask) != leading[:1]:
    checks.check_shape("mask", mask, leading)
  xp = jnp if isinstance(mask, jax.Array) else np
  return spread(xp.asarray(mask).astype(bool), leading)


def spread(values: Any, leading: tuple[int, ...]) -> Any:
  """Values with one entry per row, from one entry per example or per row."""
  xp = jnp if isinstance(values, jax.Array) else np
  missing = (1,) * (len(leading) - values.ndim)
  return xp.broadcast_to(values.reshape(*values.shape, *missing), leading).reshape(-1)


def real_logits(
  logits: Float[Array, "rows classes"], mask: Bool[Array, " rows"] | None
) -> Float[Array, "rows classes"]:
  """Logits in float32 or wider, with masked rows set to 0."""
  logits = jnp.asarray(float32.at_least_float32(logits))
  return logits if mask is None else jnp.where(mask[:, None], logits, 0)


def softened(
  rows: Rows, temperature: Option, *, standardize: bool
) -> tuple[list[Float[Array, "rows classes"]], Float[Array, " rows"]]:
  """Both sides divided by the temperature, and the temperature as `[rows]` or `[1]`.

  Infinite logits do not change and have no gradient. Finite logits stay finite.
  """
  sides = rows.at_least_float32()
  scale = temperatures(rows, temperature)
  if standardize:
    sides = [standardized(side) for side in sides]
  return [divided(side, scale[:, None]) for side in sides], scale


def temperatures(rows: Rows, temperature: Option) -> Float[Array, " rows"]:
  """The temperature as `[1]` or `[rows]`. It is 1 in masked rows.

  Raises:
    TypeError: If `temperature` is not a real number.
    ValueError: If `temperature` is not positive, or is neither one number nor an array
      with one number per example or row.
  """
  checks.check_positive("temperature", temperature, rows=rows.leading)
  values = jnp.asarray(temperature).astype(float32_dtype(rows))
  if not values.ndim:
    return values.reshape(-1)
  values = spread(values, rows.leading)
  return values if rows.mask is None else jnp.where(rows.mask, values, 1)


def float32_dtype(rows: Rows) -> Any:
  """Dtype of the computation: float64 if the first side is float64, else float32."""
  wide = rows.sides[0].dtype == jnp.float64
  return jnp.dtype(jnp.float64 if wide else jnp.float32)


def numbers(rows: Rows, **options: Option) -> list[Float[Array, ""]]:
  """Options as scalars in the dtype of the computation. They may be traced.

  Raises:
    TypeError: If an option is not a real number.
    ValueError: If the shape of an option is not (), or a Python or NumPy number is not
      finite.
  """
  for name, value in options.items():
    checks.check_number(name, value)
  return [jnp.asarray(value).astype(float32_dtype(rows)) for value in options.values()]


def divided(
  logits: Float[Array, "rows classes"], temperature: Float[Array, "rows 1"]
) -> Float[Array, "rows classes"]:
  """Logits divided by a temperature, without overflow of finite logits.

  Infinite logits are returned unchanged and have no gradient.
  """
  infinite = jnp.isinf(logits)
  largest = float(jnp.finfo(logits.dtype).max) / 4
  # The inner `where` keeps infinity out of the gradient of the temperature.
  quotients = jnp.where(infinite, 0, logits) / temperature
  clipped = jnp.clip(quotients, -largest, largest)
  return jnp.where(infinite, lax.stop_gradient(logits), clipped)


def standardized(
  logits: Float[Array, "rows classes"],
) -> Float[Array, "rows classes"]:
  """Standardised logits `(z - mean z) / (1e-7 + std z)` of each row.

  The standard deviation is that of a sample (ddof 1), as in the authors' code (Sun et
  al. 2024, algorithm 1). Logits of minus infinity stay minus infinity and do not count
  in the moments. Rows that are constant up to rounding become 0, without a gradient.
  """
  possible = logits != -jnp.inf
  magnitudes = jnp.where(possible, jnp.abs(lax.stop_gradient(logits)), 0)
  unit = float32.power_of_two(magnitudes.max(1, keepdims=True))
  count = possible.sum(1, keepdims=True, dtype=logits.dtype)
  mean = scaled(logits, unit).sum(1, keepdims=True) / jnp.maximum(count, 1)
  squares = (centred(logits, unit, mean) ** 2).sum(1, keepdims=True)
  return standard_scores(logits, unit, mean, squares, count)


def scaled(
  logits: Float[Array, "rows classes"], unit: Float[Array, "rows 1"]
) -> Float[Array, "rows classes"]:
  """Logits divided by a unit, with 0 for a class that is ruled out."""
  return jnp.where(logits == -jnp.inf, 0, logits) / unit


def centred(
  logits: Float[Array, "rows classes"],
  unit: Float[Array, "rows 1"],
  mean: Float[Array, "rows 1"],
) -> Float[Array, "rows classes"]:
  """Logits divided by a unit, minus their mean, with 0 for a class ruled out."""
  return jnp.where(logits == -jnp.inf, 0, scaled(logits, unit) - mean)


def standard_scores(
  logits: Float[Array, "rows classes"],
  unit: Float[Array, "rows 1"],
  mean: Float[Array, "rows 1"],
  squares: Float[Array, "rows 1"],
  count: Float[Array, "rows 1"],
) -> Float[Array, "rows classes"]:
  """Standardised logits from their moments.

  Args:
    logits: Logits, or some columns of them.
    unit: Power of two near the largest magnitude of the row. In this unit squares
      neither overflow nor underflow.
    mean: Mean of the row, in this unit.
    squares: Sum of squared differences from the mean, in this unit.
    count: Number of classes that are not ruled out.
  """
  variance = squares / jnp.maximum(count - 1, 1)
  # The comparison is False for NaN, so NaN reaches the result. The `where` inside the
  # root keeps its infinite derivative at 0 out of the gradient.
  still = variance <= (8 * jnp.finfo(logits.dtype).eps) ** 2
  deviation = jnp.sqrt(jnp.where(still, 1, variance)) + EPSILON / unit
  scores = jnp.where(still, 0, centred(logits, unit, mean) / deviation)
  return jnp.where(logits == -jnp.inf, -jnp.inf, scores)
