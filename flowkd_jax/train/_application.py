"""Application of a network to prepared images, compiled once for all data sets."""

import functools
from collections.abc import Sequence
from typing import Any

import jax

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import parallel


class Application:
  """Network in evaluation mode, mapped over devices.

  Attributes:
    names: Names of the taps in the order of the network, set at the first call. Kept
      because `jax.jit` sorts the keys of the returned dictionary.
  """

  def __init__(
    self,
    model: capture.AnyModel,
    taps: Sequence[str] | None,
    devices: Sequence[Any],
    parallelism: parallel.Mode,
  ):
    """Prepare the application; it compiles at the first call for each image shape."""
    self.names: tuple[str, ...] = ()

    def apply(variables, images):
      logits, activations = capture.apply_with_taps(model, variables, images, taps=taps)
      capture.check_logits(model, logits)
      self.names = tuple(activations)
      return logits, activations

    self._mapped = parallel.map_step(
      apply, (None, 0), devices=devices, mode=parallelism
    )

  def __call__(
    self, variables: methods.Variables, images: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits and taps by name, on the devices, without waiting for them."""
    return self._mapped(variables, images)


def application(
  model: capture.AnyModel,
  taps: Sequence[str] | None,
  devices: Sequence[Any],
  parallelism: parallel.Mode,
) -> Application:
  """Application of a network; the same object for equal arguments.

  Stages and data sets with equal networks thus share one compiled program.
  """
  names = None if taps is None else tuple(taps)
  arguments = (model, names, tuple(devices), parallelism)
  try:
    hash(arguments)
  except TypeError:  # A field of the module, such as a list, is not hashable.
    return Application(*arguments)
  return _kept(*arguments)


# Bounded, because a converted model may hold its initial variables in memory.
_kept = functools.lru_cache(maxsize=16)(Application)
