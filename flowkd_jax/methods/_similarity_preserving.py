"""Similarity-preserving distillation (Tung and Mori, ICCV 2019).

"Similarity-Preserving Knowledge Distillation", https://arxiv.org/abs/1907.09682. Pairs
of images that are similar to the teacher should be similar to the student:

    L = label_weight * CE + weight * sum_i mean_rows |g_i^t - g_i^s|^2

`g_i` are the normalised rows of the matrix of inner products of tap i. The mean over
rows does not depend on the batch size. The paper's weight of 3000 applies to the mean
over all pairs of a batch of 128; it corresponds to 3000 / 128 here.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import optax

from flowkd_jax import _taps
from flowkd_jax import capture
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax import parallel
from flowkd_jax._numerics import equal_shapes
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _method

PAPER_WEIGHT = 3000 / 128


def similarity_preserving(
  student: capture.AnyModel,
  teacher: _method.Network,
  optimizer: optax.GradientTransformation,
  *,
  pairs: Mapping[str, str],
  weight: optax.Schedule | float = PAPER_WEIGHT,
  label_weight: float = 1.0,
  unrelated: bool = False,
  initial: _method.Variables | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Distillation by the similarities between the rows of a batch.

  Args:
    student: Network to train. Its BatchNorm layers need the same `axis_name`.
    teacher: Frozen teacher in evaluation mode.
    optimizer: Optimizer of the student.
    pairs: Teacher tap of each student tap, by name; widths may differ.
    weight: Weight of each tap, a number or a schedule of the step.
    label_weight: Weight of the cross-entropy on the labels.
    unrelated: Control experiment: each image learns the similarities of the next image
      in the shuffled batch. A gain that remains is not knowledge of the teacher.
    initial: Initial variables of the student; fresh ones by default.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    TypeError: If `pairs` is not a mapping from names to names.
    ValueError: If `pairs` is empty or a weight is negative.
  """
  _taps.check_pairs(pairs)

  def terms(student, teacher, batch, params):
    del params
    mask = batch["mask"]

    def similarity(student, teacher):
      return losses.similarity_preserving(
        student,
        _of_neighbours(teacher, axis_name) if unrelated else teacher,
        mask=mask,
        axis_name=axis_name,
      )

    values = equal_shapes.map_by_shape(
      similarity,
      [kernels.flatten(student.taps[tap]) for tap in pairs],
      [kernels.flatten(teacher.taps[tap]) for tap in pairs.values()],
    )
    return dict(zip(pairs, values, strict=True))

  return _distillation.distillation(
    student,
    teacher,
    optimizer,
    terms=terms,
    weights=dict.fromkeys(pairs, weight),
    taps=(tuple(pairs), tuple(pairs.values())),
    label_weight=label_weight,
    initial=initial,
    micro_batches=micro_batches,
    axis_name=axis_name,
  )


def _of_neighbours(features, axis_name):
  """Rows of the global batch, shifted by one."""
  rows = jnp.roll(parallel.gather_rows(features, axis_name), 1, axis=0)
  return rows[parallel.row_positions(len(features), axis_name)]
