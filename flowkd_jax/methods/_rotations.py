"""Batches of images in four rotations, and losses on them, for self-supervised methods.

A method is written for a rotated batch; `on_rotations` rotates each batch on the
device. Row `4 b + j` is image b, rotated j times by 90 degrees. Its joint label, which
encodes class and rotation, is `4 y + j`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import losses
from flowkd_jax._numerics import label_rule
from flowkd_jax.methods import _diagnostics
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _method

ROTATIONS = 4


def rotated_batch(batch: _method.Batch) -> dict[str, jax.Array]:
  """Rotate each image by 0, 90, 180 and 270 degrees anticlockwise; joint labels.

  Args:
    batch: "image" [rows, side, side, channels], "label" [rows] and "mask" [rows].

  Returns:
    The same arrays with four times as many rows.

  Raises:
    ValueError: If the images are not square.
  """
  images, labels = batch["image"], jnp.asarray(label_rule.widened(batch["label"]))
  _check_square(images)
  turns = range(ROTATIONS)
  rotated = jnp.stack([jnp.rot90(images, j, axes=(1, 2)) for j in turns], axis=1)
  # The joint labels of a missing label, -1, are -4 to -1: missing too.
  joint = ROTATIONS * labels[:, None] + jnp.arange(ROTATIONS, dtype=labels.dtype)[None]
  return {
    "image": rotated.reshape(-1, *images.shape[1:]),
    "label": joint.reshape(-1),
    "mask": jnp.repeat(batch["mask"], ROTATIONS),
  }


def on_rotations(method: _method.Method) -> _method.Method:
  """Make a method train on the four rotations of each batch."""

  def init(key, images):
    _check_square(images)
    return method.init(key, images)

  def update(state, batch, constants):
    return method.update(state, rotated_batch(batch), constants)

  def observe(state, batch, constants):
    observed = method.observe
    if observed is None:
      return {}
    metrics = observed(state, rotated_batch(batch), constants)
    # Information about joint labels, which have more classes than the network.
    return {
      k: v for k, v in metrics.items() if not k.startswith(_diagnostics.BATCH_QMI)
    }

  # No `teacher`: its outputs on the batch are not its outputs on the rotations.
  return method._replace(init=init, update=update, observe=observe, teacher=None)


def cross_entropies(
  outputs: _distillation.Outputs, batch: _method.Batch, axis_name: str | None
) -> _method.Metrics:
  """Cross-entropy of the logits with labels, and of the branches with joint labels.

  Args:
    outputs: Logits on a rotated batch; the taps are the logits of the branches.
    batch: The rotated batch.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Returns:
    "labels", the mean over the upright images, and "joint_labels", the sum over the
    branches of the means over all rotations.
  """
  joint = [
    losses.cross_entropy(
      branch, batch["label"], mask=batch["mask"], axis_name=axis_name
    )
    for branch in outputs.taps.values()
  ]
  labels = upright_cross_entropy(outputs.logits, batch, axis_name)
  return {"labels": labels, "joint_labels": jnp.stack(joint).sum()}


def upright_cross_entropy(
  logits: Float[Array, "batch classes"], batch: _method.Batch, axis_name: str | None
) -> Float[Array, ""]:
  """Cross-entropy with the labels of the upright rows of a rotated batch."""
  upright = slice(None, None, ROTATIONS)
  return losses.cross_entropy(
    logits[upright],
    batch["label"][upright] // ROTATIONS,
    mask=batch["mask"][upright],
    axis_name=axis_name,
  )


def divergences(
  student: _distillation.Outputs,
  teacher: _distillation.Outputs,
  batch: _method.Batch,
  *,
  temperature: float,
  axis_name: str | None,
) -> _method.Metrics:
  """Divergence of the logits and, if the student has branches, of branch logits.

  Args:
    student: Logits of the student on a rotated batch; its taps are branch logits.
    teacher: The same outputs of the teacher, with the same names.
    batch: The rotated batch.
    temperature: Temperature `T` of the softmax.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Returns:
    "logits" and, if the student has branches, "branches", the sum over the branches.
    Both are means over all rotations and have the factor `T^2`.
  """

  def divergence(student, teacher):
    return losses.knowledge_distillation(
      student,
      teacher,
      temperature=temperature,
      mask=batch["mask"],
      axis_name=axis_name,
    )

  values = {"logits": divergence(student.logits, teacher.logits)}
  if student.taps:
    branches = [divergence(x, teacher.taps[name]) for name, x in student.taps.items()]
    values["branches"] = jnp.stack(branches).sum()
  return values


def _check_square(images):
  if images.shape[1] != images.shape[2]:
    raise ValueError(
      f"images: expected square images, to be rotated, got shape {images.shape}; crop "
      "or resize them"
    )
