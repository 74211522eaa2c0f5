"""Relational representation distillation against a queue of teacher embeddings.

The queue is an explicit pytree. The step that evaluates the loss also updates the
queue:

    params = rrd_init(key, student.shape, teacher.shape)
    queue = rrd_queue_init(key)
    loss = rrd(student, teacher, params=params, queue=queue)
    queue = rrd_queue_update(student, teacher, params=params, queue=queue)
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import row_blocks
from flowkd_jax.losses import _contrastive

Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]
Queue = dict[str, Array]


def rrd_init(
  key: Key[Array, ""],
  student_shape: Sequence[int],
  teacher_shape: Sequence[int],
  *,
  width: int = 128,
) -> Parameters:
  """Linear heads of `rrd`. The student's head is learnt, the teacher's head is fixed.

  Args:
    key: Random key.
    student_shape: Shape of the student features. Axes after the first are flattened.
    teacher_shape: Shape of the teacher features.
    width: Width of the embedding. The authors' code has 128.

  Returns:
    `{"student": head, "teacher": head}` in float32. A head has a "kernel" and a "bias".
    The gradient of the teacher's head is 0.

  Raises:
    ValueError: If `width` is below 1.
  """
  return _contrastive.crd_init(key, student_shape, teacher_shape, width=width)


def rrd_queue_init(
  key: Key[Array, ""], size: int = 16384, *, width: int = 128
) -> Queue:
  """Queue of random embeddings of norm 1, which embeddings of the teacher replace.

  Differs from the authors' code, which divides the columns by their norms, and not the
  rows. The norms of the rows are then about `sqrt(width / size)`, which is 0.09 for the
  sizes of the paper. Such rows hardly count until they are replaced.

  Args:
    key: Random key.
    size: Number of rows in the queue, at least that of the global batch.
    width: Width of the embedding, as in `rrd_init`.

  Returns:
    `{"rows": [size, width] in float32, "position": [] in int32}`. The position is the
    index of the row that is replaced next.

  Raises:
    ValueError: If `size` or `width` is below 1.
  """
  checks.check_count("size", size)
  checks.check_count("width", width)
  rows = kernels.unit_rows(jax.random.normal(key, (size, width), jnp.float32))
  return {"rows": rows, "position": jnp.zeros((), jnp.int32)}


@meshes.on_any_mesh
def rrd(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  params: Parameters | None,
  queue: Queue,
  temperature: float = 0.1,
  teacher_temperature: float = 0.02,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Relational representation distillation: similarity to a queue of embeddings.

  `mean_i -sum_k p^t_ik log p^s_ik` with `p^s_ik = softmax_k(u_i . q_k / tau_s)` and
  `p^t_ik = softmax_k(v_i . q_k / tau_t)`. Here u and v are the embeddings of student
  and teacher, of norm 1, and q holds the rows of a queue of teacher embeddings
  (Giakoumoglou and Stathaki 2024). The loss is a cross-entropy: its smallest value is
  the teacher's entropy and not 0. It does not depend on the batch size. Before training
  it grows with the logarithm of the size of the queue. It is invariant to a permutation
  of rows, and without `params` to the scale of each row and to a rotation common to
  both sides and the queue.

  As in the authors' code, the teacher embeddings of this batch enter the queue before
  the comparison, so that each row is compared with its own teacher row too. This is
  part of the loss. To keep the embeddings in the queue, call `rrd_queue_update` with
  the same arguments in the same step. The teacher's head has no gradient, in the
  authors' code and here: it is a fixed random projection. The default temperatures are
  those of the authors' code, where a comment swaps them. Differs from that code, which
  needs a queue size that is a multiple of the batch size: here the queue is circular
  for any batch size, and masked rows do not enter it.

  The authors' second variant is not implemented. It has a memory with an embedding per
  example, takes the softmax of exponentials, and compares the teacher with the
  student's memory.

  For B rows and a queue of K rows of width W, the loss takes O(B K W) time, and the
  memory of `block_size` rows. With `params=None`, equal widths and both temperatures at
  0.07 it is the loss on global features of the first version of LightlyTrain.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width. They have no gradient.
    params: Heads from `rrd_init`. If None, the features themselves are compared and
      must have the width of the queue.
    queue: Result of `rrd_queue_init` or `rrd_queue_update`, the same on all devices. It
      has no gradient.
    temperature: Temperature tau_s of the student, above 0.
    teacher_temperature: Temperature tau_t of the teacher, above 0.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. The queue
      gets the rows of all devices.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batches or widths disagree, the queue has fewer rows than the global
      batch, or a temperature is not positive.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> key, rows = jax.random.key(0), jnp.eye(4)
    >>> params = rrd_init(key, rows.shape, rows.shape, width=8)
    >>> queue = rrd_queue_init(key, 100, width=8)
    >>> rrd(rows, rows, params=params, queue=queue).shape
    ()
    >>> queue = rrd_queue_update(rows, rows, params=params, queue=queue)
    >>> int(queue["position"])
    4

  References:
    Giakoumoglou and Stathaki, "Relational representation distillation", arXiv
    2407.12073.
  """
  checks.check_positive("temperature", temperature)
  checks.check_positive("teacher_temperature", teacher_temperature)
  ours, theirs = _embeddings(student, teacher, params, mask)
  updated = _enqueued(theirs, queue, mask, axis_name)["rows"].astype(ours.dtype)
  temperatures = tuple(
    jnp.asarray(float32.like(each, ours), ours.dtype)
    for each in (temperature, teacher_temperature)
  )

  def row_terms(shared, block):
    columns, temperatures = shared
    student, teacher = (
      jax.nn.log_softmax(float32.matmul(rows, columns) / each, axis=1)
      for rows, each in zip(block, temperatures, strict=True)
    )
    return -(jnp.exp(teacher) * student).sum(1)

  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (updated.T, temperatures),
    (ours, theirs),
    parallel.mean_weights(mask, axis_name, ours, theirs),
    row_entries=updated.shape[0],
  )
  return parallel.global_sum(total, axis_name)


@meshes.on_any_mesh
def rrd_queue_update(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  params: Parameters | None,
  queue: Queue,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Queue:
  """Queue after a step: the oldest rows are replaced by the batch of all devices.

  The result has no gradient. Arguments and errors are those of `rrd`.
  """
  _, theirs = _embeddings(student, teacher, params, mask)
  return _enqueued(theirs, queue, mask, axis_name)


def _embeddings(student, teacher, params, mask):
  ours, theirs = _contrastive.embeddings(
    student, teacher, params, mask, init="rrd_init"
  )
  # The teacher's head stays as drawn, so only the student's side has a gradient.
  return ours, lax.stop_gradient(theirs)


def _enqueued(embedded, queue, mask, axis_name):
  """The queue after the real rows of the global batch were written at its position."""
  size, width = queue["rows"].shape[0], embedded.shape[1]
  checks.check_shape("queue, rows", queue["rows"], (size, width))
  checks.check_shape("queue, position", queue["position"], ())
  rows = parallel.gather_rows(embedded, axis_name)
  if rows.shape[0] > size:
    raise ValueError(
      f"queue: expected at least the {rows.shape[0]} rows of the global batch, got "
      f"{size}; make it larger with rrd_queue_init(key, size)"
    )
  real = parallel.gather_rows(parallel.real_rows(embedded, mask), axis_name)
  position = jnp.asarray(queue["position"]).astype(jnp.int32)
  before = jnp.cumsum(real, dtype=jnp.int32)
  # Real rows take consecutive places, and the queue is circular. A masked row gets a
  # place beyond the queue, which the scatter below drops.
  places = jnp.where(real, (position + before - 1) % size, size)
  old = lax.stop_gradient(jnp.asarray(queue["rows"]))
  return {
    "rows": old.at[places].set(rows.astype(old.dtype), mode="drop"),
    "position": (position + before[-1]) % size,
  }
