"""Batch normalisation over the valid rows of the global batch."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax._numerics.checks import check_rows
from flowkd_jax.parallel import global_sum


class BatchNorm(nn.Module):
  """Batch normalisation by the statistics of the global batch.

  Flax's own layer averages the means of the devices. This equals the mean of the global
  batch only if every device holds equally many valid rows, which is not the case at the
  end of an epoch. This layer adds sums and counts over the devices, so the statistics
  are those of all valid rows, even if some devices hold none. The variables have Flax's
  names.

  The running variance uses the unbiased estimate, as in PyTorch, where the authors'
  networks come from. The batch itself is normalised by the biased estimate. Statistics
  and parameters are always float32.

  Attributes:
    momentum: Weight of the old value in the running averages. PyTorch's momentum is the
      weight of the new value, `1 - momentum`.
    epsilon: Number added to the variance.
    dtype: Data type of the result.
    axis_name: Mapped axis over which the batch is split, if any.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch *space channels"],
    *,
    train: bool,
    mask: Bool[Array, "batch ..."] | None = None,
  ) -> Float[Array, "batch *space channels"]:
    """Normalise `x`; in training, update the running averages.

    Args:
      x: Activations.
      train: True to use the statistics of the batch, and update the collection
        `batch_stats`, which must be mutable. Otherwise the running statistics are used.
      mask: Mask of valid rows in training, or with more axes, of valid positions; None
        if all are valid. Other positions are set to `bias`, do not affect the
        statistics and receive no gradient. A batch without valid positions does not
        change the running averages.
    """
    check_rows("x", x)
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
    x = x.astype(jnp.float32)
    if not train:
      centred = x - _as_channels(running_mean.value, x)
      var = running_var.value
    else:
      # Initialisation runs outside the mapped step, where the axis is not bound.
      axis_name = None if self.is_initializing() else self.axis_name
      centred, mean, var, count = batch_statistics(x, mask, axis_name)
      if not self.is_initializing():
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        weight = jnp.where(count > 0, 1 - self.momentum, 0.0)
        for running, new in ((running_mean, mean), (running_var, unbiased)):
          running.value += weight * (lax.stop_gradient(new) - running.value)
    factor = scale * lax.rsqrt(var + self.epsilon)
    normalized = centred * _as_channels(factor, x) + _as_channels(bias, x)
    return normalized.astype(self.dtype)


def batch_statistics(
  x: Float[Array, "batch *space channels"],
  mask: Bool[Array, "batch ..."] | None,
  axis_name: str | None,
) -> tuple[
  Float[Array, "batch *space channels"],
  Float[Array, " channels"],
  Float[Array, " channels"],
  Float[Array, ""],
]:
  """Centred values, mean, biased variance and number of values of each channel.

  All results but the first are global. Centred values are zero where `x` is not valid.
  The variance is computed from centred values, because the difference of the mean
  square and the squared mean loses digits if the mean is large.
  """
  axes = tuple(range(x.ndim - 1))
  valid = jnp.ones(x.shape[0], bool) if mask is None else mask.astype(bool)
  values_each = x.size // (valid.size * x.shape[-1])
  count = global_sum(valid.sum(dtype=x.dtype) * values_each, axis_name)
  divisor = jnp.maximum(count, 1)
  mean = global_sum(zero_masked(x, mask).sum(axes), axis_name) / divisor
  centred = zero_masked(x - _as_channels(mean, x), mask)
  var = global_sum(jnp.square(centred).sum(axes), axis_name) / divisor
  return centred, mean, var, count


def zero_masked(
  x: Float[Array, "batch ..."], mask: Bool[Array, "batch ..."] | None
) -> Float[Array, "batch ..."]:
  """Set invalid entries of `x` to zero, even if they are NaN.

  The axes of `mask` are the first axes of `x`.
  """
  if mask is None:
    return x
  valid = mask.astype(bool).reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
  return jnp.where(valid, x, jnp.zeros((), x.dtype))


def _as_channels(
  values: Float[Array, " channels"], x: Float[Array, "*rest channels"]
) -> Float[Array, "*ones channels"]:
  return values.reshape((1,) * (x.ndim - 1) + (-1,))
