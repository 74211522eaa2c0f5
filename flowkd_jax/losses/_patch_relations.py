"""Relations between the patches of each image, with any loss that compares rows.

Pairwise losses compare the rows of a batch. Here the rows are the tokens of one image
or the pixels of one map, and the loss is the mean over images. Each image is compared
with itself only.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import row_blocks
from flowkd_jax.losses import _alignment
from flowkd_jax.losses import _batch
from flowkd_jax.losses import _flow
from flowkd_jax.losses import _probabilistic
from flowkd_jax.losses import _relational
from flowkd_jax.losses import _rkd
from flowkd_jax.losses import _spatial
from flowkd_jax.losses import _token_relations

# `(student [tokens, dim], teacher [tokens, dim], mask=[tokens] or None) -> scalar`
Relation = Callable[..., Float[Array, ""]]


@meshes.on_any_mesh
def patch_relations(
  student: Float[Array, "batch *positions student_dim"],
  teacher: Float[Array, "batch *positions teacher_dim"],
  *,
  relation: str | Relation = "gram",
  mask: Shaped[Array, "batch *positions"] | None = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Relations between the patches of each image: the mean over images of a loss.

  A loss that compares the rows of a batch is applied to the tokens of each image, or to
  the pixels of its map:

  | `relation` | loss of an image |
  |---|---|
  | `gram` | `mean_ij (cos^s_ij - cos^t_ij)^2` over all pairs of tokens |
  | `gram_positive` | the same, with negative cosines set to 0 |
  | `pkt` | `losses.pkt` |
  | `information_flow` | `losses.information_flow` of one tap |
  | `linear_cka`, `debiased_linear_cka`, `rbf_cka` | `losses.linear_cka` and so on |
  | `similarity_preserving` | `losses.similarity_preserving` |
  | `correlation_congruence` | `losses.correlation_congruence` |
  | `rkd_distance` | `losses.rkd_distance` |

  `gram` is the loss by which DINOv3 anchors its patches to those of an earlier teacher
  (Simeoni et al. 2025, section 4). The code of DINOv3 has `gram_positive` as an option.
  Cosines are computed here from distances of unit vectors, so small angles keep their
  digits. A vector of zeros has cosine 0 with every other vector. For other options pass
  a function: `functools.partial(losses.conditional_divergence,
  kernels="von_mises_fisher:14.3", divergence="kl")` compares softmaxes of cosines at
  temperature 0.07.

  Widths may differ. Maps of different sizes are average-pooled to the smaller size, for
  each axis. Tokens are compared with the same number of tokens, or with a map of the
  same number of pixels in row-major order: remove class and register tokens first. The
  invariances are those of the relation, for each image. The loss is also invariant to a
  permutation of patches common to both sides.

  The time is that of the relation for every image, O(B T^2 D) for B images of T patches
  and the sum D of both widths. The memory is that of `block_size` images.

  Args:
    student: Student tokens `[batch, tokens, dim]` or maps `[batch, height, width,
      channels]`.
    teacher: Teacher tokens or maps.
    relation: A name in the table, or a function `(student, teacher, mask=mask)` that
      returns a scalar. It gets arrays `[tokens, dim]` and a mask `[tokens]` or None.
    mask: True for real images `[batch]`, or for real patches `[batch, tokens]` or
      `[batch, height, width]`. Masked entries do not count. An image without a real
      patch is left out.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of images evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batches, numbers of tokens or the mask disagree, an array is empty or
      is neither tokens nor maps, or `relation` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> tokens = jnp.eye(4)[None]
    >>> float(patch_relations(2 * tokens, tokens))
    0.0

  References:
    Simeoni et al., "DINOv3", arXiv 2508.10104.
  """
  loss = _as_relation(relation)
  tokens = _as_tokens(student, teacher, mask)
  number = tokens.student.shape[1]
  # With a mask of images, all patches of a real image are real. The relation then needs
  # no mask, which is faster.
  masked = mask is not None and np.ndim(mask) > 1

  def of_image(student, teacher, real):
    return loss(student, teacher, mask=real if masked else None)

  def row_terms(shared, block):
    del shared
    return jax.vmap(of_image)(*block)

  weights = parallel.mean_weights(
    tokens.rows, axis_name, tokens.student, tokens.teacher
  )
  total = row_blocks.sum_over_rows(
    row_terms, block_size, (), tokens[:3], weights, row_entries=number**2
  )
  return parallel.global_sum(total, axis_name)


def _gram(student, teacher, *, mask=None, positive=False):
  batch = _batch.gathered_batch(student, teacher, mask, None)
  sides = zip(*_batch.pair_sides(batch, student.shape[0]), strict=True)
  pairs = [pairwise.pair_geometry(*side, batch.positions) for side in sides]
  # Gaps are (1 - cos) / 2, so a right angle has the gap 1/2.
  gaps = [each.cosine_gaps for each in pairs]
  if positive:
    gaps = [jnp.where(gap > 0.5, 0.5, gap) for gap in gaps]
  real = None if mask is None else batch.real
  valid = pairwise.valid_pairs(pairs[0].same, real, self_pairs=True)
  terms = jnp.where(valid, 4 * (gaps[0] - gaps[1]) ** 2, 0).sum(1)
  weights = parallel.mean_weights(mask, None, *batch.rows)
  return (weights * terms).sum() / jnp.maximum(batch.number, 1)


def _information_flow(student, teacher, *, mask=None):
  return _flow.information_flow([student], [teacher], mask=mask)


RELATIONS: dict[str, Relation] = {
  "gram": _gram,
  "gram_positive": functools.partial(_gram, positive=True),
  "pkt": _probabilistic.pkt,
  "information_flow": _information_flow,
  "linear_cka": _alignment.linear_cka,
  "debiased_linear_cka": functools.partial(_alignment.linear_cka, debiased=True),
  "rbf_cka": _alignment.rbf_cka,
  "similarity_preserving": _relational.similarity_preserving,
  "correlation_congruence": _relational.correlation_congruence,
  "rkd_distance": _rkd.rkd_distance,
}


def _as_relation(relation: str | Relation) -> Relation:
  if callable(relation):
    return relation
  checks.check_choice("relation", relation, RELATIONS)
  return RELATIONS[relation]


def _as_tokens(student, teacher, mask) -> _token_relations.Tokens:
  sides = {"student": student, "teacher": teacher}
  for name, side in sides.items():
    checks.check_floating(name, side)
    if jnp.ndim(side) not in (3, 4):
      raise ValueError(
        f"{name}: expected tokens [batch, tokens, dim] or maps [batch, height, width, "
        f"channels], got shape {jnp.shape(side)}"
      )
  mask = None if mask is None else jnp.asarray(mask)
  maps = {name: side for name, side in sides.items() if jnp.ndim(side) == 4}
  checks.check_maps(**maps)
  sizes = {side.shape[1:3] for side in maps.values()}
  if len(sizes) > 1:
    if mask is not None and mask.ndim > 1:
      raise ValueError(
        "mask: expected one entry per image if maps differ in size, got shape "
        f"{mask.shape} with a student of shape {student.shape} and a teacher of shape "
        f"{teacher.shape}; pool them to one size first"
      )
    sides = dict(zip(sides, _spatial.paired_maps(student, teacher, mask), strict=True))
  elif maps and mask is not None and mask.ndim == 3:
    (size,) = sizes
    checks.check_shape("mask", mask, (student.shape[0], *size))
    mask = mask.reshape(mask.shape[0], -1)
  student, teacher = (
    side.reshape(side.shape[0], -1, side.shape[-1]) if side.ndim == 4 else side
    for side in sides.values()
  )
  _token_relations.check_tokens(student=student, teacher=teacher)
  return _token_relations.masked_tokens(student, teacher, mask)
