"""A network applied to prepared images: one compiled program for every data set."""

import functools
from collections.abc import Sequence
from typing import Any

import jax

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import parallel


class Application:
  """A network in evaluation mode, mapped over devices.

  Attributes:
    names: Taps in the order of the network, once it was applied: a dictionary that
      leaves a compiled function is sorted.
  """

  def __init__(
    self,
    model: capture.AnyModel,
    taps: Sequence[str] | None,
    devices: Sequence[Any],
    parallelism: parallel.Mode,
  ):
    """Compiles on first call, and again for images of another shape."""
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
    """Logits and taps by name, on the devices; does not wait for them."""
    return self._mapped(variables, images)


def application(
  model: capture.AnyModel,
  taps: Sequence[str] | None,
  devices: Sequence[Any],
  parallelism: parallel.Mode,
) -> Application:
  """The application of a network: the same object for equal arguments.

  So it is compiled once for all stages and data sets that have networks of one kind.
  """
  names = None if taps is None else tuple(taps)
  arguments = (model, names, tuple(devices), parallelism)
  try:
    hash(arguments)
  except TypeError:  # A module with a field such as a list or an array.
    return Application(*arguments)
  return _kept(*arguments)


# Bounded: a model of another framework may hold its first variables.
_kept = functools.lru_cache(maxsize=16)(Application)
