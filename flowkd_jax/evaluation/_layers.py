"""Which layer of one network is like which of another: matrices over their taps."""

import functools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax import flow
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax._labels import checked_labels

# Arrays of NumPy or JAX, `[rows, ...]`.
Taps = Mapping[str, Any] | Sequence[Any]


def cka_matrix(
  student: Taps, teacher: Taps
) -> Float[np.ndarray, "student_taps teacher_taps"]:
  """Linear CKA between every student tap and every teacher tap (1 is alike).

  Kornblith et al. 2019, section 3, over all rows at once; see `losses.linear_cka`.

  Args:
    student: Activations by name or in a sequence, `[rows, ...]`.
    teacher: Likewise, of the same rows.

  Raises:
    TypeError: If a tap is not floating point.
    ValueError: If there are no taps or the rows disagree.
  """
  return np.array(
    [
      [1 - float(_linear_cka(left, right)) for _, right in flow.tap_items(teacher)]
      for _, left in flow.tap_items(student)
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
    student: Activations by name or in a sequence, `[rows, ...]`.
    teacher: Likewise, of the same rows.
    labels: Class of each row; rows with a negative label are left out.
    num_classes: Number of classes.
    kernel: Pairwise kernel, cosine by default.
    block_size: Rows evaluated at a time.

  Raises:
    TypeError: If a tap is not floating or the labels are not integers.
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

  def information(taps):
    activations = [jnp.asarray(tap) for _, tap in flow.tap_items(taps)]
    return np.asarray(measure(activations, jnp.asarray(labels)))

  return np.abs(np.subtract.outer(information(student), information(teacher)))


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
