"""Networks by name, as flags take them: of this package or of a module of the user."""

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
  "number_of_parameters",
  "of_flag",
  "parameter_bytes",
]

NAMES = f"one of {', '.join(models.NAMES)}"
# For help texts: shorter than `NAMES`, which lists every depth.
DESCRIPTION = (
  "NAME or NAME:WIDTH, with NAME one of cnn1, resnet18, vit, resnetDEPTH or "
  "strided_resnetDEPTH (DEPTH 8, 14, 20, 32, 44, 56, 110), digits_cnn, digits_resnet, "
  "digits_vit, latent_cnn; of the CIFAR-100 benchmark resnetDEPTHx1, resnet8x4, "
  "resnet32x4, wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2, vgg8, vgg11, vgg13, vgg16, "
  "vgg19, mobilenet_v2, shufflenet_v1, shufflenet_v2, resnet50; or MODULE:FUNCTION, a "
  "function of yours that returns the model (it is imported and called)"
)


def by_name(name: str, **options: Any) -> capture.AnyModel:
  """Make a network of this package, or call a function of the user that makes one.

  Args:
    name: "NAME" or "NAME:WIDTH", as in `models.by_name`; or "MODULE:FUNCTION". The
      function takes no arguments. It returns a Linen module that is called with images
      and `train`, or the result of `capture.from_nnx`, `from_equinox` or `with_taps`.
    **options: Fields of a network of this package; functions of the user do not get
      them.

  Raises:
    ValueError: If there is no such network or function, or the function does not return
      a network.
  """
  if name.partition(":")[0] in models.NAMES:
    return models.by_name(name, **options)
  model = _made(name)
  try:
    capture.adapt(model)
  except TypeError as error:
    raise ValueError(f"network: {name} did not return a network; {error}") from None
  return model


def of_flag(flag: str, name: str) -> capture.AnyModel:
  """Make the network that a flag names; errors name the flag.

  Args:
    flag: The flag, without its dashes.
    name: Value of the flag, as in `by_name`.
  """
  try:
    return by_name(name)
  except ValueError as error:
    raise ValueError(f"--{flag}: {error}") from None


def check_declares_taps(model: capture.AnyModel) -> None:
  """Raise ValueError unless the network declares its taps by name."""
  taps = capture.adapt(model).taps
  if not taps or any(set(name) & set("*?[") for name in taps):
    found = "none" if not taps else ", ".join(taps)
    raise ValueError(
      f"taps: expected a network that names each of its taps, got {found}; list them "
      "with flowkd taps --network=... and name them in capture.with_taps(model, [...])"
    )


def check_applies(model: capture.AnyModel, image_shape: tuple[int, ...]) -> None:
  """Trace a network and check that it has its taps and returns logits.

  Args:
    model: The network.
    image_shape: Height, width and channels of the images.

  Raises:
    ValueError: If the network cannot be applied to such images, lacks one of its taps,
      or does not return a single array.
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
  except Exception as error:  # A user's model may raise anything.
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
  """Memory of the variables of a network in bytes, found by tracing.

  Args:
    name: The network, as in `by_name`.
    image_shape: Height, width and channels of the images.

  Raises:
    ValueError: If the network cannot be applied to such images; see `check_applies`.
  """
  model = by_name(name)
  if name.partition(":")[0] not in models.NAMES:
    check_applies(model, image_shape)
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  try:
    shapes = jax.tree.leaves(_initialized(model, images))
  except ValueError:
    raise
  except Exception as error:  # Such as a width beyond JAX's integers.
    raise ValueError(_cannot_be_applied(name, image_shape, error)) from error
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes)


def number_of_parameters(model: capture.AnyModel, image_shape: tuple[int, ...]) -> int:
  """Number of the trained parameters of a network; only traces it.

  Args:
    model: The network.
    image_shape: Height, width and channels of its images.
  """
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  shapes = jax.tree.leaves(_initialized(model, images).get("params", {}))
  return sum(math.prod(leaf.shape) for leaf in shapes)


@functools.cache  # Always the same model, so that compiled programs are reused.
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
