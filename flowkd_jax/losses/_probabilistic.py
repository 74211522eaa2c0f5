"""Losses that match conditional probabilities of rows being neighbours.

Every row of a batch is described by the probabilities of the other rows being its
neighbours, under a kernel; student and teacher are compared by a divergence between
these distributions. Widths of student and teacher may differ. The whole batch is one
object: do not `vmap` over examples; under data parallelism pass `axis_name`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax import _checks
from flowkd_jax import _global_batch
from flowkd_jax import _pairs
from flowkd_jax import information
from flowkd_jax import kernels

Mask = Shaped[Array, " batch"] | None


def conditional_divergence(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  kernel: kernels.Kernel | Sequence[kernels.Kernel] | None = None,
  divergence: information.Divergence = information.jeffreys,
  self_pairs: bool = False,
  reduction: str = "rows",
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Divergence between the neighbour probabilities of student and teacher.

  `mean_i sum_{j != i} d(p^t_{j|i}, p^s_{j|i})` with `p = K_ij / sum_{k != i} K_ik`
  (Passalis et al. 2020, Eq. 5-8). Depends neither on the batch size nor on the widths
  through its reduction. Invariant to rotation and permutation; with the cosine kernel
  to a scale of single rows, with the others to shift, with the adaptive ones to one
  scale for all rows too.

  Args:
    student: Student features; axes after the first are flattened.
    teacher: Teacher features, of any width.
    kernel: Pairwise kernel, cosine by default; the divergences of several are summed.
    divergence: One of `flowkd_jax.information`: Jeffreys, KL, ...
    self_pairs: Let a row be its own neighbour, as the authors' code does.
    reduction: "rows", the mean over rows of the sum over columns; or "matrix",
      the mean over all pairs, which is smaller by the batch size (the authors').
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split; the loss is that of the
      global batch, on every device.
    block_size: Rows evaluated at a time, in the backward pass too; memory is
      then O(batch x block_size).

  Returns:
    The loss, at least float32; 0 for a batch of one row.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis,
      or `reduction` is another word.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.eye(4)
    >>> float(conditional_divergence(2 * features, features))
    0.0
  """
  _checks.check_features(student=student, teacher=teacher)
  _checks.check_choice("reduction", reduction, ("rows", "matrix"))
  if mask is not None:
    _checks.check_shape("mask", mask, student.shape[:1])
  kernel_list = _kernel_list(kernel)
  sides = [kernels.flatten(student, mask), kernels.flatten(teacher, mask)]
  gathered = [_global_batch.gather_rows(side, axis_name) for side in sides]
  real = _global_batch.gather_rows(_real_rows(mask, student), axis_name)
  bandwidths = [
    [k.bandwidth(side, real, block_size) for k in kernel_list] for side in gathered
  ]

  def row_terms(student_rows, teacher_rows, positions):
    pairs = [
      _pairs.pair_geometry(rows, columns, positions)
      for rows, columns in zip((student_rows, teacher_rows), gathered, strict=True)
    ]
    valid = real[None, :] if self_pairs else real[None, :] & ~pairs[0].same
    terms = jnp.zeros(student_rows.shape[:1], student_rows.dtype)
    for index, each in enumerate(kernel_list):
      log_probabilities = [
        information.conditional_log_probabilities(
          each.log(geometry, widths[index]), valid
        )
        for geometry, widths in zip(pairs, bandwidths, strict=True)
      ]
      terms += jnp.where(valid, divergence(*log_probabilities), 0).sum(1)
    return terms

  positions = _global_batch.row_positions(student.shape[0], axis_name)
  terms = information.rows_in_blocks(row_terms, block_size, *sides, positions)
  loss = _global_batch.global_mean(terms, mask, axis_name)
  if reduction == "matrix":
    loss = loss / jnp.maximum(real.sum(dtype=loss.dtype), 1)
  return loss


def pkt(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  authors: bool = False,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Probabilistic knowledge transfer: KL of neighbour probabilities, cosine kernel.

  Differs from the authors' code: a row is not its own neighbour, the loss is the
  mean over rows of KL (theirs is the mean over all pairs, smaller by the batch
  size, hence the weight 30000 often seen), and there is no epsilon (theirs: 1e-7
  in norms and logarithms). `authors=True` is their code exactly.

  Depends neither on the batch size nor on the widths through its reduction. Invariant
  to rotation, to a scale of single rows and to permutation; not to a shift.

  Args:
    student: Student features; axes after the first are flattened.
    teacher: Teacher features, of any width.
    authors: Reproduce the published code.
    mask: Which rows are real.
    axis_name: Mapped axis over which the batch is split.
    block_size: Rows evaluated at a time; None for all at once.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree or an array is empty.

  Example:
    >>> import jax.numpy as jnp
    >>> float(pkt(jnp.eye(4), 3 * jnp.eye(4)))
    0.0

  References:
    Passalis and Tefas, "Learning deep representations with probabilistic
    knowledge transfer", ECCV 2018.
  """
  options = {"mask": mask, "axis_name": axis_name, "block_size": block_size}
  if not authors:
    return conditional_divergence(
      student, teacher, divergence=information.kullback_leibler, **options
    )
  return conditional_divergence(
    student,
    teacher,
    kernel=kernels.authors_kernel("cosine", epsilon=1e-7),
    divergence=information.smoothed_kullback_leibler(1e-7),
    self_pairs=True,
    reduction="matrix",
    **options,
  )


def _real_rows(mask, features):
  if mask is None:
    return jnp.ones(features.shape[:1], bool)
  return mask.astype(bool)


def _kernel_list(kernel):
  if kernel is None:
    return [kernels.cosine()]
  return [kernel] if isinstance(kernel, kernels.Kernel) else list(kernel)
