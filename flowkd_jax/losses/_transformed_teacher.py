"""Transformed teacher matching, which applies the temperature to the teacher alone."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax._numerics import class_blocks
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _log_probabilities
from flowkd_jax.losses import _logits
from flowkd_jax.losses import _softmax


@meshes.on_any_mesh
def transformed_teacher_matching(
  student: Float[Array, "batch *positions classes"],
  teacher: Float[Array, "batch *positions classes"],
  *,
  temperature: _logits.Option = 4.0,
  weighted: bool = True,
  standardize: bool = False,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Transformed teacher matching: `mean_i U_i KL(q_i, s_i)`, `s = softmax(student)`.

  `q = softmax(teacher / T)` equals `p^(1 / T) / U`, where p are the teacher's
  probabilities and `U_i = sum_c p_ic^(1 / T)` (Zheng and Yang 2024, sections 3 and 4).
  For T above 1, U is near 1 if the teacher is certain, and at most
  `classes^(1 - 1 / T)`, so uncertain examples count most. `weighted=True` is WTTM.
  `weighted=False` is TTM, where U is replaced by 1. The student has no temperature, so
  there is no factor `T^2`. The loss is the mean over rows of a sum over classes. It is
  invariant to a shift of each row of logits, and to permutation of rows or of the
  classes of both sides.

  The authors write gamma for `1 / T`. Differs from their code only in that U has a
  gradient with respect to the teacher. For VGG-13 to VGG-8 on CIFAR-100 they use TTM
  with gamma 0.1 and weight 45, beside a cross-entropy of weight 1.

  Args:
    student: Student logits, one row for each example or each position.
    teacher: Teacher logits.
    temperature: Temperature T of the teacher, above 0: one number, or one for each
      example or row. May be traced.
    weighted: Weight each row by U, as WTTM does.
    standardize: Standardise the logits of each row first (Sun et al. 2024), as
      `flowkd_jax.losses` explains.
    mask: True for real examples `[batch]`, or for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. Every
      device returns the loss of the global batch.
    block_size: Number of classes evaluated at a time, also in the backward pass. Memory
      then holds no array of all rows and classes except the logits and their gradients.
      If None, up to 2^26 logits are evaluated at once.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If shapes disagree, there is a single class, or `temperature` is not
      positive.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    >>> float(transformed_teacher_matching(logits / 4, logits))
    0.0

  References:
    Zheng and Yang, "Knowledge distillation based on transformed teacher matching",
    ICLR 2024.
  """
  rows = _logits.read(mask, student=student, teacher=teacher)
  number, classes = rows.sides[0].shape
  if class_blocks.one_block(number, classes, block_size):
    # Converted once, so that the gradients of all terms are added in float32 before
    # they are rounded to the dtype of the logits.
    rows = rows._replace(sides=tuple(rows.at_least_float32()))
  scale = _logits.temperatures(rows, temperature)
  sums = _softmax.term_sums(
    rows,
    _log_probabilities.forward,
    (jnp.ones_like(scale), scale),
    standardize=standardize,
    block_size=block_size,
  )
  if weighted:
    sums = sums * _power_sums(
      rows._replace(sides=rows.sides[1:]),
      scale,
      standardize=standardize,
      block_size=block_size,
    )
  return rows.mean(sums, axis_name)


def _power_sums(teacher, scale, **options):
  """Sums `U_i = sum_c p_ic^(1 / T)` of each row.

  The largest probability of a row is `1 / plain`, where `plain` is the mass at
  temperature 1. Relative to it, the powers sum to the mass `softened` at temperature T.
  Hence `U = softened plain^(-1 / T)`.
  """
  _, softened = _softmax.normalizers(teacher, scale, **options)
  largest, plain = _softmax.normalizers(teacher, jnp.ones_like(scale), **options)
  constant = lax.stop_gradient(scale)
  # The largest logits are constants in both masses, so their gradient with respect to T
  # is missing there. `moved` has the value 0 and this gradient.
  bound = float(jnp.finfo(largest.dtype).max) / 4
  moved = jnp.clip(largest / constant, -bound, bound) * (1 - constant / scale)
  return softened * jnp.exp(moved - jnp.log(plain) / scale)
