"""Which layer of one network is like which of another: matrices over their taps."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax import _taps
from flowkd_jax import flow
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax._numerics.label_rule import checked_labels

# Arrays of NumPy or JAX, `[rows, ...]`, or (name, array) pairs.
Taps = Sequence[Any]


def cka_matrix(
  student: Taps, teacher: Taps
) -> Float[np.ndarray, "student_taps teacher_taps"]:
  """Linear CKA between every student tap and every teacher tap (1 is alike).

  Kornblith et al. 2019, section 3, over all rows at once; see `losses.linear_cka`.

  Args:
    student: Activations `[rows, ...]`, from input to output: a sequence of arrays or of
      `(name, array)` pairs. A mapping does not keep its order under `jax.jit`.
    teacher: Activations of the teacher on the same rows, likewise.

  Raises:
    TypeError: If a tap is not floating point, or taps are a mapping.
    ValueError: If there are no taps or the rows disagree.
  """
  students = _taps.ordered_taps("student", student)
  teachers = _taps.ordered_taps("teacher", teacher)
  return np.array(
    [
      [1 - float(_linear_cka(left, right)) for _, right in teachers]
      for _, left in students
    ]
  )


def flow_distance_matrix(
  student: Taps,
  teacher: Taps,
  *,
  labels: Int[np.ndarray, " rows"],
  num_classes: int,
  kernel: kernels.Kernel | None = None,
  block_size: int | None = 512,
) -> Float[np.ndarray, "student_taps teacher_taps"]:
  """`|w_s[i] - w_t[j]|` between the information flows of two networks.

  The distances of which the paper's kappa takes the nearest (Passalis et al. 2020,
  section 3.1).

  Args:
    student: Activations `[rows, ...]`, from input to output: a sequence of arrays or of
      `(name, array)` pairs. A mapping does not keep its order under `jax.jit`.
    teacher: Activations of the teacher on the same rows, likewise.
    labels: Class of each row; rows with a negative label are left out.
    num_classes: Number of classes.
    kernel: Pairwise kernel, cosine by default.
    block_size: Rows evaluated at a time.

  Raises:
    TypeError: If a tap is not floating, the labels are not integers, or taps are a
      mapping.
    ValueError: If there are no taps or shapes disagree.
  """
  # Checked here: under `jit` a label that is no class could only give NaN.
  labels = checked_labels(labels, num_classes, shape=np.shape(labels))
  measure = jax.jit(
    functools.partial(
      flow.information_flow,
      num_classes=num_classes,
      kernel=kernel,
      block_size=block_size,
    )
  )

  def information(argument, taps):
    items = _taps.ordered_taps(argument, taps)
    activations = [jnp.asarray(tap) for _, tap in items]
    return np.asarray(measure(activations, jnp.asarray(labels)))

  flows = information("student", student), information("teacher", teacher)
  return np.abs(np.subtract.outer(*flows))


def dead_share(activations: Float[np.ndarray, "rows ..."]) -> float:
  """Share of the units that have one value whatever the input.

  Args:
    activations: A tap on some examples; units are all entries of a row.
  """
  rows = np.asarray(activations).reshape(len(activations), -1)
  return float((rows == rows[:1]).all(axis=0).mean())


@jax.jit
def _linear_cka(left, right):
  return losses.linear_cka(left, right)
