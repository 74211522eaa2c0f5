"""Multi-level logit distillation over examples, pairs of examples and of classes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import row_blocks
from flowkd_jax.losses import _log_probabilities
from flowkd_jax.losses import _logits


@meshes.on_any_mesh
def multi_level_distillation(
  student: Float[Array, "batch *positions classes"],
  teacher: Float[Array, "batch *positions classes"],
  *,
  instance_weight: _logits.Option = 1.0,
  batch_weight: _logits.Option = 1.0,
  class_weight: _logits.Option = 1.0,
  temperatures: Sequence[_logits.Option] = (2.0, 3.0, 4.0, 5.0, 6.0),
  standardize: bool = False,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Multi-level logit distillation, summed over temperatures.

  Let P be the softened probabilities of N rows and C classes at temperature T. The loss
  is the sum over temperatures of three terms, each multiplied by its weight (Jin et al.
  2023, section 3):

  - instances: `T^2 mean_i KL(t_i, s_i)`, as in `knowledge_distillation`,
  - batch: `|P_t P_t' - P_s P_s'|^2 / N`, the relations between examples,
  - classes: `|P_t' P_t - P_s' P_s|^2 / C`, the relations between classes.

  Here `|.|` is the Frobenius norm. The term of instances does not depend on the batch
  size. The batch term grows with the batch size, and the class term grows with its
  square, as in the authors' code. The loss is invariant to a shift of each row of
  logits, and to permutation of rows or of the classes of both sides.

  Differs from the authors' code, which evaluates a weak and a strong view of each
  image. The code also computes a mask of the least confident half of the rows (for
  instances and batch) or of the classes. This mask selects nothing: terms that are
  already means are multiplied by the share of the mask, about one half. On strong views
  the code uses the term of instances alone, and at temperatures 2 and 6 it reads the
  weak views instead. All of this can be composed of calls of this function with those
  weights. The sum has weight 0.9, beside cross-entropies of weight 0.1. Here only
  `mask` selects rows.

  Args:
    student: Student logits, one row for each example or each position.
    teacher: Teacher logits.
    instance_weight: Weight of the term of instances. May be traced, like the other
      weights and `temperatures`.
    batch_weight: Weight of the term of relations between rows.
    class_weight: Weight of the term of relations between classes.
    temperatures: Temperatures over which the loss is summed, each above 0.
    standardize: Standardise the logits first in the term of instances alone, as the
      code of logit standardisation does. `flowkd_jax.losses` explains it.
    mask: True for real examples `[batch]`, or for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. Every
      device returns the loss of the global batch.
    block_size: Number of rows evaluated at a time in the term of relations between
      rows, also in the backward pass. If None, a fast size is chosen.

  Raises:
    TypeError: If an input is not floating point, or a weight is not a number.
    ValueError: If shapes disagree, there is a single class, a temperature is not
      positive, or `temperatures` is empty.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    >>> float(multi_level_distillation(logits, logits))
    0.0

  References:
    Jin et al., "Multi-level logit distillation", CVPR 2023.
  """
  rows = _logits.read(mask, student=student, teacher=teacher)
  weights = _logits.numbers(
    rows,
    instance_weight=instance_weight,
    batch_weight=batch_weight,
    class_weight=class_weight,
  )
  # The code of logit standardisation standardises the instances alone.
  plain = rows.at_least_float32()
  scores = [_logits.standardized(side) for side in plain] if standardize else plain
  possible = _possible_classes(rows, axis_name)

  def at(temperature):
    sides = [jax.nn.softmax(_logits.divided(side, temperature)) for side in plain]
    terms = (
      _instances(rows, scores, temperature, axis_name),
      _pairs_of_rows(rows, sides, axis_name, block_size),
      _pairs_of_classes(rows, sides, axis_name) / possible,
    )
    return jnp.stack(weights) * jnp.stack(terms)

  # `vmap` compiles the loss once for all temperatures.
  return jax.vmap(at)(_read_temperatures(rows, temperatures)).sum()


def _read_temperatures(rows, temperatures):
  if not isinstance(temperatures, Sequence) and jnp.ndim(temperatures) != 1:
    raise TypeError(
      "temperatures: expected a sequence of numbers, such as [2, 3, 4], got "
      f"{temperatures}"
    )
  values = list(temperatures)
  if not values:
    raise ValueError(
      "temperatures: expected one number above 0 or more, got none; "
      "leave the argument out for 2 to 6"
    )
  for value in values:
    checks.check_positive("temperatures", value)
  dtype = _logits.float32_dtype(rows)
  return jnp.stack([jnp.asarray(value).astype(dtype) for value in values])


def _possible_classes(rows, axis_name):
  """Number of classes that at least one row of a side does not rule out, at least 1."""
  possible = (rows.sides[0] != -jnp.inf) | (rows.sides[1] != -jnp.inf)
  if rows.mask is not None:
    possible &= rows.mask[:, None]
  dtype = _logits.float32_dtype(rows)
  counts = parallel.global_sum(possible.sum(0, dtype=dtype), axis_name)
  return jnp.maximum((counts > 0).sum(dtype=dtype), 1)


def _instances(rows, sides, temperature, axis_name):
  logs = [jax.nn.log_softmax(_logits.divided(side, temperature)) for side in sides]
  terms = _log_probabilities.relative_entropy(*logs).sum(1)
  return temperature**2 * rows.mean(terms, axis_name)


def _pairs_of_rows(rows, sides, axis_name, block_size):
  """Batch term `|P_t P_t' - P_s P_s'|^2 / N`, in blocks of rows."""
  weights = parallel.mean_weights(rows.mask, axis_name, *sides)
  sides = _without_padding(rows, sides)
  columns = [parallel.gather_rows(side, axis_name).T for side in sides]

  def row_terms(columns, of_rows):
    student, teacher = map(float32.matmul, of_rows, columns)
    return ((student - teacher) ** 2).sum(1)

  total = row_blocks.sum_over_rows(row_terms, block_size, columns, sides, weights)
  return parallel.global_sum(total, axis_name)


def _pairs_of_classes(rows, sides, axis_name):
  """Class term `|P_t' P_t - P_s' P_s|^2`, before it is divided by C."""
  student, teacher = (
    float32.matmul(side.T, side) for side in _without_padding(rows, sides)
  )
  return (parallel.global_sum(student - teacher, axis_name) ** 2).sum()


def _without_padding(rows, sides):
  """Probabilities with masked rows set to 0."""
  if rows.mask is None:
    return sides
  # The logits of masked rows are 0, so their probabilities are uniform and not 0.
  return [jnp.where(rows.mask[:, None], side, 0) for side in sides]
