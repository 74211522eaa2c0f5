"""Pooling of taps with positions, such as tokens or pixels, to one vector per example.

A tap of a transformer is `[batch, tokens, dim]`, and a tap of a convolutional network
is `[batch, height, width, channels]`. Losses flatten all axes after the batch axis and
thus compare position by position. Pooled taps are compared independently of positions.
Arithmetic is float32 (float64 stays float64), whatever the dtype of the tap.

If a mask leaves no position of an example, its vector is zero, and so is the gradient.
Masked positions are not read and may hold NaN.
"""

from collections.abc import Callable
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32

__all__ = [
  "POOLINGS",
  "attention",
  "average_pool",
  "class_token",
  "mean",
]


def mean(
  tap: Float[Array, "batch *positions dim"],
  *,
  mask: Shaped[Array, "batch *positions"] | None = None,
) -> Float[Array, "batch dim"]:
  """Mean over all positions.

  Args:
    tap: Tokens, maps, or another array with axes of positions between the batch axis
      and the axis of the width.
    mask: True for real positions, all by default.

  Raises:
    TypeError: If `tap` is not floating point.
    ValueError: If `tap` has no position, or `mask` has another shape than
      `tap.shape[:-1]`.
  """
  _check_tap(tap)
  return attention(tap, jnp.ones(jnp.shape(tap)[:-1]), mask=mask)


def attention(
  tap: Float[Array, "batch *positions dim"],
  weights: Float[Array, "batch *positions"],
  *,
  mask: Shaped[Array, "batch *positions"] | None = None,
) -> Float[Array, "batch dim"]:
  """Weighted mean over all positions, with weights such as a class token's attention.

  `sum_p weight_p tap_p / sum_p weight_p` over the real positions p. It is invariant to
  the scale of the weights of an example, and differentiable in the weights too.

  Args:
    tap: Tokens, maps, or another array with axes of positions between the batch axis
      and the axis of the width.
    weights: Weight of each position, 0 or above. For attention scores take their
      softmax.
    mask: True for real positions, all by default.

  Returns:
    The weighted means. They are zero where the weights of an example sum to zero.

  Raises:
    TypeError: If `tap` or `weights` are not floating point.
    ValueError: If `tap` has no position, or `weights` or `mask` have another shape than
      `tap.shape[:-1]`.
  """
  _check_tap(tap)
  checks.check_floating("weights", weights)
  positions = jnp.shape(tap)[:-1]
  checks.check_shape("weights", weights, positions)
  values = float32.at_least_float32(jnp.asarray(tap))
  shares = jnp.asarray(weights).astype(values.dtype)
  if mask is not None:
    checks.check_shape("mask", mask, positions)
    real = jnp.asarray(mask).astype(bool)
    values = jnp.where(real[..., None], values, 0)
    shares = jnp.where(real, shares, 0)
  axes = tuple(range(1, len(positions)))
  total = shares.sum(axes)[:, None]
  # `where` is applied twice: the gradient of a quotient by zero is NaN, also in the
  # branch that is not selected.
  weighted = (shares[..., None] * values).sum(axes)
  # The comparison is False for NaN, so a weight of NaN reaches the result.
  empty = total <= 0
  return jnp.where(empty, 0, weighted / jnp.where(empty, 1, total))


def class_token(
  tokens: Float[Array, "batch tokens dim"],
  *,
  index: int = 0,
  mask: Shaped[Array, "batch tokens"] | None = None,
) -> Float[Array, "batch dim"]:
  """The class token, which represents the whole image. It is usually the first token.

  Args:
    tokens: Tokens of a transformer.
    index: Index of the class token; -1 is the last token.
    mask: True for real tokens, all by default. The result is zero for an example whose
      class token is masked.

  Raises:
    TypeError: If `tokens` are not floating point.
    ValueError: If `tokens` have another rank, `index` is out of range, or `mask` has
      another shape than `tokens.shape[:2]`.
  """
  checks.check_floating("tokens", tokens)
  shape = jnp.shape(tokens)
  if len(shape) != 3 or 0 in shape:
    raise ValueError(
      "tokens: expected a non-empty array of shape [batch, tokens, dim], got shape "
      f"{shape}; a map has no class token: use pooling.mean"
    )
  if not -shape[1] <= index < shape[1]:
    raise ValueError(f"index: expected one of {shape[1]} tokens, got {index}")
  token = float32.at_least_float32(jnp.asarray(tokens)[:, index])
  if mask is None:
    return token
  checks.check_shape("mask", mask, shape[:2])
  return jnp.where(jnp.asarray(mask).astype(bool)[:, index, None], token, 0)


# Poolings that need no weights, by name.
POOLINGS: Mapping[str, Callable[..., Float[Array, "batch dim"]]] = {
  "mean": mean,
  "class_token": class_token,
}


def average_pool(
  maps: Float[Array, "batch height width channels"], height: int, width: int
) -> Float[Array, "batch new_height new_width channels"]:
  """Adaptive average pooling to a given height and width.

  From n rows to m, cell i is the mean of the rows from `floor(i n / m)` up to, but not
  including, `ceil((i + 1) n / m)`, as in PyTorch's `adaptive_avg_pool2d`. Cells overlap
  if m does not divide n. The dtype does not change.

  Args:
    maps: Maps of a convolutional network.
    height: Height of the result.
    width: Width of the result.
  """
  for axis, size in ((1, height), (2, width)):
    maps = _averaged(maps, axis, size)
  return maps


def _averaged(maps, axis, size):
  side = maps.shape[axis]
  if side == size:
    return maps
  if side % size == 0:
    # Equal cells that do not overlap: a mean needs no matrix of shares.
    windows = (*maps.shape[:axis], size, side // size, *maps.shape[axis + 1 :])
    return maps.reshape(windows).mean(axis + 1)
  starts = np.arange(size) * side // size
  ends = -(-np.arange(1, size + 1) * side // size)
  positions = np.arange(side)[None, :]
  inside = (positions >= starts[:, None]) & (positions < ends[:, None])
  shares = jnp.asarray(inside / inside.sum(1, keepdims=True), maps.dtype)
  axes = "yh,bhwc->bywc" if axis == 1 else "xw,bhwc->bhxc"
  return jnp.einsum(axes, shares, maps, precision=lax.Precision.HIGHEST)


def _check_tap(tap) -> None:
  checks.check_floating("tap", tap)
  shape = jnp.shape(tap)
  if len(shape) < 3 or 0 in shape:
    raise ValueError(
      "tap: expected a non-empty array of shape [batch, positions, ..., dim], got "
      f"shape {shape}; an array without positions needs no pooling"
    )
