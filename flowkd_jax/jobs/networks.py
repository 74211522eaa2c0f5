"""Networks by the names that flags take: ours, and those of anybody's module."""

import functools
import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp

from flowkd_jax import capture
from flowkd_jax import models

__all__ = [
  "DESCRIPTION",
  "NAMES",
  "by_name",
  "check_applies",
  "check_declares_taps",
  "of_flag",
  "parameter_bytes",
]

NAMES = f"one of {', '.join(models.NAMES)}"
# For help texts: what stands in place of the depths that `NAMES` spells out.
DESCRIPTION = (
  "NAME or NAME:WIDTH with NAME cnn1, resnet18, vit, resnetDEPTH or "
  "strided_resnetDEPTH (DEPTH 8, 14, 20, 32, 44, 56, 110), digits_cnn, digits_resnet, "
  "digits_vit, latent_cnn, of the CIFAR-100 benchmark resnetDEPTHx1, resnet8x4, "
  "resnet32x4, wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2, vgg8, vgg11, vgg13, vgg16, "
  "vgg19, mobilenet_v2, shufflenet_v1, shufflenet_v2, resnet50; or MODULE:FUNCTION, a "
  "function of yours that returns the model (it is imported and called)"
)


def by_name(name: str, **options: Any) -> capture.AnyModel:
  """A network of ours, or what a function of somebody's module makes.

  Args:
    name: "NAME" or "NAME:WIDTH", as in `models.by_name`; or "MODULE:FUNCTION". The
      function takes nothing and returns a Linen module that is called with images and
      `train`, or what `capture.from_nnx`, `from_equinox` or `with_taps` return.
    **options: Fields of a network of ours; another's are its own affair.

  Raises:
    ValueError: If there is no such network or function, or it makes something else.
  """
  if name.partition(":")[0] in models.NAMES:
    return models.by_name(name, **options)
  model = _made(name)
  try:
    capture.adapt(model)
  except TypeError as error:
    raise ValueError(f"network: {name} made something else; {error}") from None
  return model


def of_flag(flag: str, name: str) -> capture.AnyModel:
  """The network that a flag names; ValueError names the flag.

  Args:
    flag: The flag, without its dashes.
    name: Its value, as in `by_name`.
  """
  try:
    return by_name(name)
  except ValueError as error:
    raise ValueError(f"--{flag}: {error}") from None


def check_declares_taps(model: capture.AnyModel) -> None:
  """Raises ValueError unless the network says what is to be distilled."""
  taps = capture.adapt(model).taps
  if not taps or any(set(name) & set("*?[") for name in taps):
    found = "none" if not taps else ", ".join(taps)
    raise ValueError(
      f"taps: expected a network that names each of its taps, got {found}; list them "
      "with flowkd taps --network=... and name them in capture.with_taps(model, [...])"
    )


def check_applies(model: capture.AnyModel, image_shape: tuple[int, ...]) -> None:
  """Raises ValueError unless a network has its taps and returns logits; only traces it.

  Args:
    model: The network.
    image_shape: Height, width and channels of its images.

  Raises:
    ValueError: If it cannot be applied to such images, lacks one of its taps, or
      returns something else than one array.
  """
  name = capture.adapt(model).name
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  try:
    variables = _initialized(model, images)
    capture.tap_shapes(model, variables, images)
    output = jax.eval_shape(
      lambda v, x: capture.apply_with_taps(model, v, x, taps=())[0], variables, images
    )
  except ValueError:
    raise
  except Exception as error:  # Whatever somebody's model raises.
    raise ValueError(_cannot_be_applied(name, image_shape, error)) from error
  capture.check_logits(model, output)


def _initialized(model: capture.AnyModel, images: jax.ShapeDtypeStruct) -> Any:
  """Shapes of the variables of a network."""
  return jax.eval_shape(lambda x: capture.init(model, jax.random.key(0), x), images)


def _cannot_be_applied(
  name: str, image_shape: tuple[int, ...], error: Exception
) -> str:
  return (
    f"{name} cannot be applied to images of shape {image_shape} (height, width, "
    f"channels): {error} ({type(error).__name__})"
  )


def parameter_bytes(name: str, image_shape: tuple[int, ...]) -> int:
  """Memory of the variables of a network; only traces it.

  Args:
    name: The network, as in `by_name`.
    image_shape: Height, width and channels of its images.

  Raises:
    ValueError: If it cannot be applied to such images, as in `check_applies`.
  """
  model = by_name(name)
  if name.partition(":")[0] not in models.NAMES:
    check_applies(model, image_shape)
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  try:
    shapes = jax.tree.leaves(_initialized(model, images))
  except ValueError:
    raise
  except Exception as error:  # Such as a width that no integer of JAX can hold.
    raise ValueError(_cannot_be_applied(name, image_shape, error)) from error
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes)


@functools.cache  # One module, however often it is asked for.
def _made(name: str) -> Any:
  module_name, _, function_name = name.partition(":")
  try:
    make = getattr(importlib.import_module(module_name), function_name)
  except (ImportError, AttributeError, ValueError, TypeError) as error:
    raise ValueError(
      f"network: expected {NAMES}, with a width or without, or MODULE:FUNCTION that "
      f"can be imported, got {name!r} ({error})"
    ) from None
  try:
    made = make()
  except (Exception, SystemExit) as error:
    raise ValueError(
      f"network: {name} was called without arguments and failed: "
      f"{type(error).__name__}: {error}"
    ) from error
  return made[0] if isinstance(made, tuple) and made else made
