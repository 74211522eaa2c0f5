"""Contrastive representation distillation within a batch.

The loss asks to find the teacher row of each student row among all rows, and vice
versa. Learnt linear heads embed both sides, and embeddings are divided by their norms.
The negatives are the other rows of the batch. In `_memory_bank` they are drawn from the
whole data set.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import renamed
from flowkd_jax._numerics import row_blocks

Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]
SIDES = ("student", "teacher")


def crd_init(
  key: Key[Array, ""],
  student_shape: Sequence[int],
  teacher_shape: Sequence[int],
  *,
  width: int = 128,
) -> Parameters:
  """Linear heads of `crd` and `crd_bank`, trained together with the student.

  Args:
    key: Random key.
    student_shape: Shape of the student features. Axes after the first are flattened.
    teacher_shape: Shape of the teacher features.
    width: Width of the embedding.

  Returns:
    `{"student": head, "teacher": head}` in float32. A head has a "kernel" and a "bias".

  Raises:
    ValueError: If `width` is below 1.
  """
  checks.check_count("width", width)
  params = {}
  shapes = student_shape, teacher_shape
  for side, shape, side_key in zip(SIDES, shapes, jax.random.split(key), strict=True):
    initializer = jax.nn.initializers.lecun_normal()
    kernel = initializer(side_key, (int(np.prod(shape[1:])), width), jnp.float32)
    params[side] = {"kernel": kernel, "bias": jnp.zeros(width)}
  return params


@renamed.renamed_arguments(heads="params")
@meshes.on_any_mesh
def crd(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  params: Parameters | None = None,
  temperature: float = 0.07,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Contrastive distillation against the other rows of the batch, without a memory.

  `mean_i -log p(t_i | s_i) - log p(s_i | t_i)` with `p(t_j | s_i) = exp(u_i . v_j /
  tau) / sum_k exp(u_i . v_k / tau)`, where u and v are the normalised embeddings of
  student and teacher. This objective is InfoNCE, which Tian et al. 2020 compare in
  their ablation. `crd_bank` has their own objective, with a bank.

  The loss is 0 or above. It is `2 log(batch)` if all rows are equally likely. It does
  not depend on the widths. It is invariant to a permutation of rows, and without
  `params` to the scale of each row and to a rotation common to both sides. Negatives
  may have the class of the row. The paper draws them from other classes.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    params: Heads from `crd_init`. If None, the features themselves are compared and
      must have equal widths.
    temperature: Temperature tau of the inner products, above 0.
    mask: True for real rows. Masked rows do not count, and they are no negatives
      either.
    axis_name: Name of the mapped axis over which the batch is split, if any. Negatives
      come from all devices.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Returns:
    The loss. It is 0 for a batch of one row.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batches or widths disagree, or `temperature` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> rows = jnp.eye(4)
    >>> round(float(crd(rows, rows, temperature=1.0)), 3)
    1.487
    >>> round(float(crd(0 * rows, rows)), 4)  # 2 log 4: nothing to tell them by
    2.7726

  References:
    Tian, Krishnan and Isola, "Contrastive representation distillation", ICLR 2020.
  """
  checks.check_positive("temperature", temperature)
  embedded = embeddings(student, teacher, params, mask)
  gathered = [parallel.gather_rows(side, axis_name) for side in embedded]
  real = None
  if mask is not None:
    real = parallel.gather_rows(parallel.real_rows(student, mask), axis_name)

  def row_terms(shared, block):
    columns, real, sharpness = shared
    student_rows, teacher_rows, positions = block
    everyone = jnp.arange(columns[0].shape[1], dtype=positions.dtype)
    same = positions[:, None] == everyone[None, :]
    valid = pairwise.valid_pairs(same, real, self_pairs=True)
    own = (student_rows * teacher_rows).sum(1, keepdims=True) * sharpness
    terms = jnp.zeros_like(own[:, 0])
    for anchors, others in zip((teacher_rows, student_rows), columns, strict=True):
      # Minus the logit of the positive, which is then exactly 0, the log-sum-exp is
      # -log p. A probability near 1 keeps its digits in this form.
      excess = jnp.where(same, 0, float32.matmul(anchors, others) - own)
      terms += information.log_totals(excess, valid)
    return terms

  temperature = float32.like(temperature, embedded[0])
  sharpness = jnp.asarray(1 / temperature, embedded[0].dtype)
  columns = [side.T * sharpness for side in gathered]
  positions = parallel.row_positions(student.shape[0], axis_name)
  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (columns, real, sharpness),
    (*embedded, positions),
    parallel.mean_weights(mask, axis_name, *embedded),
  )
  return parallel.global_sum(total, axis_name)


def embeddings(student, teacher, params, mask, *, init="crd_init"):
  """Embeddings of both sides: rows of norm one and equal width, float32 or wider.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features.
    params: Heads of both sides, or None for the features themselves.
    mask: True for real rows. Masked rows are zero before the heads.
    init: Name of the function that makes the heads, for error messages.
  """
  checks.check_features(student=student, teacher=teacher)
  checks.check_mask(mask, student)
  embedded = []
  for side, features in zip(SIDES, (student, teacher), strict=True):
    rows = kernels.flatten(features, mask)
    finite = parallel.finite_rows(rows)
    if params is not None:
      kernel = jnp.asarray(params[side]["kernel"]).astype(rows.dtype)
      fitting = rows.shape[1], jnp.shape(params[side]["bias"])[-1]
      checks.check_shape(f"params, {side} kernel", kernel, fitting)
      bias = jnp.asarray(params[side]["bias"]).astype(rows.dtype)
      rows = float32.matmul(rows, kernel) + bias[None, :]
    # An infinity times a weight of 0 may vanish in the head, so finite rows are found
    # before it.
    embedded.append(jnp.where(finite[:, None], kernels.unit_rows(rows), jnp.nan))
  widths = [rows.shape[1] for rows in embedded]
  if widths[0] != widths[1]:
    raise ValueError(
      f"student has width {widths[0]} and teacher {widths[1]}: pass params, from "
      f"{init}(key, student.shape, teacher.shape)"
    )
  return embedded
