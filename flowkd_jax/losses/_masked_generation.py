"""Masked generative distillation: generation of the teacher's map from masked maps."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _projection
from flowkd_jax.losses import _spatial

Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]
Maps = Float[Array, "batch height width channels"]
HIDDEN = ("positions", "channels")


def mgd_init(
  key: Key[Array, ""],
  student_shape: Sequence[int],
  teacher_shape: Sequence[int],
) -> Parameters:
  """Generator of `mgd`, and a map between the channels if their numbers differ.

  Args:
    key: Random key.
    student_shape: Shape of the student maps. Only the number of channels is used.
    teacher_shape: Shape of the teacher maps.

  Returns:
    `{"generator": [layer, layer]}` in float32. The layers are 3 x 3 convolutions, each
    with a "kernel" and a "bias". If the channels differ, there is also `"projection":
    {"kernel": [student_channels, teacher_channels], "bias": [teacher_channels]}`.
  """
  channels = teacher_shape[-1]
  keys = jax.random.split(key, 3)
  params: Parameters = {
    "generator": [
      _layer(layer_key, (3, 3, channels, channels)) for layer_key in keys[:2]
    ]
  }
  if student_shape[-1] != channels:
    params["projection"] = _layer(keys[2], (student_shape[-1], channels))
  return params


@meshes.on_any_mesh
def mgd(
  student: Float[Array, "batch student_height student_width student_channels"],
  teacher: Float[Array, "batch teacher_height teacher_width teacher_channels"],
  *,
  params: Parameters,
  key: Key[Array, ""] | None = None,
  hidden: str = "positions",
  hidden_share: float = 0.65,
  kept: Bool[Array, "batch ..."] | None = None,
  reduction: str = "rows",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Masked generative distillation: the teacher's map from a masked student map.

  `mean_i sum_n (G(k_i * r(s_i)) - t_i)_n^2` (Yang et al. 2022), where r is a 1 x 1
  convolution if the channels differ, k is a random mask of zeros and ones, and G is a
  generator of two 3 x 3 convolutions with a rectifier between them. The loss does not
  depend on the batch size. It grows with the size of the maps, except with
  `reduction="elements"`. It is not invariant to a permutation of rows, because the mask
  of a row is drawn by its position in the batch.

  The authors' code sums over all features and takes the mean over rows. It hides
  channels for classification, with a share of 0.15 and weight 7e-5. It hides positions
  for detection and segmentation, with shares of 0.65 and 0.75 and weight 2e-5. The
  documentation of that code names other defaults.

  Args:
    student: Student maps.
    teacher: Teacher maps. The larger map is average-pooled to the smaller size.
    params: Networks from `mgd_init`, trained together with the student.
    key: Random key of the mask. Pass a new key in every step, the same on all devices.
    hidden: Part of the map that the mask hides: "positions" hides all channels of some
      positions, "channels" hides some channels at all positions.
    hidden_share: Probability with which each position or channel is hidden. It has no
      gradient.
    kept: Mask to use in place of one drawn with `key`: True for positions `[batch,
      height, width]` or channels `[batch, teacher_channels]` that are not hidden.
    reduction: "rows" is the mean over rows of the sum over features. "elements" is the
      mean over both.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If an input is not a map, batches disagree, a network does not fit, not
      exactly one of `key` and `kept` is given, `hidden_share` is outside [0, 1], or
      `hidden` or `reduction` is unknown.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.ones((2, 4, 4, 3)), jnp.ones((2, 4, 4, 6))
    >>> params = mgd_init(jax.random.key(0), student.shape, teacher.shape)
    >>> mgd(student, teacher, params=params, key=jax.random.key(1)).shape
    ()

  References:
    Yang et al., "Masked generative distillation", ECCV 2022.
  """
  checks.check_choice("hidden", hidden, HIDDEN)
  _check_share(hidden_share)
  if (key is None) == (kept is None):
    raise ValueError(
      "key, kept: expected one of them, the random key of a mask or the mask itself, "
      f"got {'neither' if key is None else 'both'}"
    )
  ours, theirs = _spatial.paired_maps(student, teacher, mask)
  ours = _projection.projected(ours, theirs, params.get("projection"), "mgd_init")
  shape = ours.shape[:3] if hidden == "positions" else (ours.shape[0], ours.shape[3])
  if kept is None:
    kept = _drawn(key, hidden_share, shape, axis_name)
  checks.check_shape("kept", kept, shape)
  real = jnp.asarray(kept).astype(bool)
  real = real[..., None] if hidden == "positions" else real[:, None, None, :]
  generated = _generated(jnp.where(real, ours, 0), params["generator"])
  _projection.check_positions(generated, theirs)
  terms = (generated - theirs) ** 2
  return _spatial.reduced(terms, reduction, mask, axis_name, student, teacher)


def _layer(key, shape):
  kernel = jax.nn.initializers.he_normal()(key, shape, jnp.float32)
  return {"kernel": kernel, "bias": jnp.zeros(shape[-1])}


def _check_share(share):
  checks.check_number("hidden_share", share)
  if not isinstance(share, jax.Array) and not 0 <= share <= 1:
    raise ValueError(f"hidden_share: expected a number from 0 to 1, got {share}")


def _drawn(key, share, shape, axis_name):
  """Mask drawn with one key per row, so it does not depend on the number of devices."""
  positions = parallel.row_positions(shape[0], axis_name)

  def of_row(position):
    # Float32 in any case: with `jax_enable_x64` another dtype would give another mask.
    return jax.random.uniform(jax.random.fold_in(key, position), shape[1:], jnp.float32)

  return jax.vmap(of_row)(positions) >= jnp.asarray(share).astype(jnp.float32)


def _generated(maps, layers):
  for index, layer in enumerate(layers):
    maps = jax.nn.relu(maps) if index else maps
    maps = _projection.convolution(maps, layer, "generator")
  return maps
