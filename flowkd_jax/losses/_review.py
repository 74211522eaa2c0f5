"""Knowledge review: fused maps of the student, compared at several sizes."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax import _taps
from flowkd_jax import parallel
from flowkd_jax import pooling
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _projection
from flowkd_jax.losses import _spatial

Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]
# Side lengths of the averaged maps. Each has half the weight of the one before.
_SIDES = (4, 2, 1)


@meshes.on_any_mesh
def hierarchical_context(
  student: Float[Array, "batch student_height student_width channels"],
  teacher: Float[Array, "batch teacher_height teacher_width channels"],
  *,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Hierarchical context loss: squared distance of maps at several sizes.

  `(d_0 + sum_k 2^-k d_k) / (1 + sum_k 2^-k)`, where `d_0` is the mean squared
  difference of the maps. For k = 1, 2, ..., `d_k` is the mean squared difference of the
  maps averaged to 4 x 4, 2 x 2 and 1 x 1 (Chen et al. 2021). Sizes that are not smaller
  than the map are left out. The loss is a mean over rows and features and depends
  neither on the batch size nor on the sizes of the maps. It grows with the square of
  the scale. It is invariant to a rotation of the channels common to both sides.

  Differs from the authors' code, which compares sizes with the height of the map. Here
  a size is used if it is smaller than the longer side of the map.

  Args:
    student: Student maps, or vectors `[batch, channels]`, which count as maps of 1 x 1.
    teacher: Teacher maps or vectors. The larger map is average-pooled to the smaller
      size.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If an input is neither maps nor vectors, or batches or channels
      disagree.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = jnp.ones((2, 8, 8, 3))
    >>> float(hierarchical_context(3 * maps, maps))
    4.0

  References:
    Chen et al., "Distilling knowledge via knowledge review", CVPR 2021.
  """
  sides = (_as_maps("student", student), _as_maps("teacher", teacher))
  rows = _context(*_spatial.paired_maps(*sides, mask))
  return parallel.global_mean(rows, mask, axis_name, student, teacher)


def review_kd_init(
  key: Key[Array, ""],
  student_shapes: Sequence[Sequence[int]],
  teacher_shapes: Sequence[Sequence[int]],
  *,
  width: int | None = None,
) -> Parameters:
  """Layers that `review_kd` learns to fuse the student's taps.

  Args:
    key: Random key.
    student_shapes: Shapes of the student taps from shallow to deep. Only the last axis
      is used.
    teacher_shapes: Shapes of the teacher taps.
    width: Number of channels of the fused maps. The default is that of the deepest
      student tap, at most 512.

  Returns:
    `{"levels": [...]}` in float32, with one dictionary per tap. "reduce" is a
    batch-normalised matrix from the student's channels to `width`. "output" is a
    batch-normalised 3 x 3 convolution to the teacher's channels. "attention" is an
    affine map to two weights; the deepest tap has none.

  Raises:
    ValueError: If there is no tap, the numbers of student and teacher taps differ, or
      `width` is below 1.
  """
  _check_taps(student_shapes, teacher_shapes)
  width = min(512, student_shapes[-1][-1]) if width is None else width
  checks.check_count("width", width)
  levels = []
  keys = jax.random.split(key, len(student_shapes))
  for level_key, ours, theirs in zip(keys, student_shapes, teacher_shapes, strict=True):
    reduce_key, output_key, attention_key = jax.random.split(level_key, 3)
    levels.append(
      {
        "reduce": _projection.normalized_init(reduce_key, ours[-1], width),
        "output": _projection.normalized_init(output_key, width, theirs[-1], size=3),
      }
    )
    if len(levels) < len(student_shapes):
      initializer = jax.nn.initializers.lecun_normal()
      kernel = initializer(attention_key, (2 * width, 2), jnp.float32)
      levels[-1]["attention"] = {"kernel": kernel, "bias": jnp.zeros(2)}
  return {"levels": levels}


@meshes.on_any_mesh
def review_kd(
  student: _taps.Taps,
  teacher: _taps.Taps,
  *,
  params: Mapping[str, Any],
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Knowledge review: teacher taps compared with fusions of student taps.

  The loss is the sum over taps of `hierarchical_context` between the teacher's tap and
  a fusion of the student's tap with all deeper student taps (Chen et al. 2021). The
  fusion goes from deep to shallow taps:

  1. The tap is mapped to a common width.
  2. The fused map of the deeper taps is resized to the size of the tap.
  3. Both are added, with two weights per position from an affine map and a sigmoid.
  4. The sum is resized to the size of the teacher's tap, and a 3 x 3 convolution maps
     it to the teacher's channels.

  Maps are resized by the nearest position. The loss does not depend on the batch size.
  It grows with the number of taps and the square of the teacher's scale.

  The convolutions are batch-normalised. The fusion is not needed after training, so the
  normalisation always uses the statistics of the batch, over the real rows of all
  devices. The authors' layers use running averages in evaluation.

  The authors read the teacher's maps before the last rectifier of a stage and the
  student's maps after it, with the pooled features as the deepest tap. The weight (5
  for ResNet-32x4 and 8x4) grows linearly over 20 epochs.

  Args:
    student: Student taps in a sequence from shallow to deep. They are maps, or vectors,
      which count as maps of 1 x 1.
    teacher: Teacher tap for each student tap. A fused student map is resized to its
      size.
    params: Fusion from `review_kd_init`, trained together with the student.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If a tap is not floating point, or taps are in a mapping, which does not
      keep their order.
    ValueError: If a tap is neither maps nor vectors, batches disagree, the numbers of
      taps and levels differ, or a layer does not fit.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> student = [jnp.ones((2, 8, 8, 4)), jnp.ones((2, 4, 4, 6)), jnp.ones((2, 6))]
    >>> teacher = [jnp.ones((2, 8, 8, 8)), jnp.ones((2, 4, 4, 9)), jnp.ones((2, 9))]
    >>> shapes = [[tap.shape for tap in taps] for taps in (student, teacher)]
    >>> params = review_kd_init(jax.random.key(0), *shapes)
    >>> review_kd(student, teacher, params=params).shape
    ()

  References:
    Chen et al., "Distilling knowledge via knowledge review", CVPR 2021.
  """
  features = [
    [tap for _, tap in _taps.ordered_taps(name, taps)]
    for name, taps in (("student", student), ("teacher", teacher))
  ]
  _check_taps(features[0], features[1], params["levels"])
  ours, theirs = (
    [_as_maps(f"{name}[{index}]", tap) for index, tap in enumerate(taps)]
    for name, taps in zip(("student", "teacher"), features, strict=True)
  )
  checks.check_same_batch(
    **{f"student[{index}]": tap for index, tap in enumerate(ours)},
    **{f"teacher[{index}]": tap for index, tap in enumerate(theirs)},
  )
  checks.check_mask(mask, ours[0])
  theirs = [_spatial.zero_masked(tap, mask) for tap in theirs]
  # From the deepest tap to the shallowest: each fusion contains the one before.
  fused = None
  total = jnp.zeros(theirs[0].shape[0], theirs[0].dtype)
  for index in reversed(range(len(ours))):
    layers = params["levels"][index]
    # A masked row may hold NaN, and a product of NaN and 0 in a statistic is NaN.
    tap = _spatial.zero_masked(ours[index], mask)
    fused = _fused(tap, fused, theirs[index], layers, mask, axis_name)
    output = _projection.convolution(
      fused, layers["output"], "output", mask=mask, axis_name=axis_name
    )
    _check_channels(output, theirs[index])
    total = total + _context(output, theirs[index])
  return parallel.global_mean(total, mask, axis_name, *features[0], *features[1])


def _fused(tap, deeper, target, layers, mask, axis_name):
  """Fusion of a tap with the deeper taps, at the size of the target.

  Args:
    tap: Student tap.
    deeper: Fused map of the deeper taps, or None for the deepest tap.
    target: Teacher tap, for its size.
    layers: Layers of this tap.
    mask: True for real rows, or None.
    axis_name: Name of the mapped axis over which the batch is split, if any.
  """
  kernel = layers["reduce"]["kernel"]
  _projection.check_kernel("reduce", kernel, tap, None)
  maps = _projection.linear(tap, layers["reduce"], mask=mask, axis_name=axis_name)
  if deeper is not None:
    deeper = _nearest(deeper, maps.shape)
    both = jnp.concatenate([maps, deeper], axis=3)
    _projection.check_kernel("attention", layers["attention"]["kernel"], both, None)
    weights = jax.nn.sigmoid(_projection.linear(both, layers["attention"]))
    maps = maps * weights[..., :1] + deeper * weights[..., 1:]
  return _nearest(maps, target.shape)


def _nearest(maps, shape):
  """Maps resized to another height and width by the nearest position.

  Position i of m is read from position `floor(i n / m)` of n, as in PyTorch.
  """
  for axis in (1, 2):
    size = maps.shape[axis]
    if size != shape[axis]:
      maps = jnp.take(maps, np.arange(shape[axis]) * size // shape[axis], axis=axis)
  return maps


def _context(student, teacher):
  """Hierarchical context loss of each row."""
  _check_channels(student, teacher)
  height, width = student.shape[1:3]
  total, weight, weights = _mean_square(student - teacher), 1.0, 1.0
  for side in _SIDES:
    if side < max(height, width):
      weight /= 2
      pooled = [
        pooling.average_pool(maps, min(side, height), min(side, width))
        for maps in (student, teacher)
      ]
      total = total + weight * _mean_square(jnp.subtract(*pooled))
      weights += weight
  return total / weights


def _mean_square(maps):
  return (maps**2).mean((1, 2, 3))


def _as_maps(name, tap):
  """The tap as maps. Vectors become maps of one position."""
  if jnp.ndim(tap) == 2:
    checks.check_features(**{name: tap})
    return jnp.asarray(tap)[:, None, None, :]
  checks.check_maps(**{name: tap})
  return tap


def _check_channels(student, teacher):
  if student.shape[3] != teacher.shape[3]:
    raise ValueError(
      "student, teacher: expected the same number of channels, got "
      f"{student.shape[3]} and {teacher.shape[3]}; make params with the shapes of "
      "these taps, or project one side"
    )


def _check_taps(student, teacher, levels=None):
  counts = {"student": len(student), "teacher": len(teacher)}
  if levels is not None:
    counts["params"] = len(levels)
  if len(set(counts.values())) > 1 or not len(student):
    found = ", ".join(f"{count} in {name}" for name, count in counts.items())
    raise ValueError(
      f"student, teacher: expected the same number of taps, one or more, got {found}"
    )
