r"""A published vision transformer of another framework, as a teacher of digits.

The package `equimo` is a library of vision models in Equinox. `make` adds the two
things that this project needs: how to call the model with one image, and its taps. To
list all activations that can be taps:

    flowkd taps --network=experiments.examples.equimo_vit:make \
        --image_size=8 --channels=1

    flowkd train information_flow --dataset=digits --workdir=DIR \
        --teacher_network=experiments.examples.equimo_vit:make --learn_from=teacher \
        --teacher_pooling=mean --layer_map=auto --stages=teacher,student_labels,student

Its weights are random; the stage `teacher` trains them.
"""

import importlib
import importlib.metadata
from typing import Any

import jax
import jax.numpy as jnp

from flowkd_jax import capture

_DEPTH = 4
# Where the transformer is, by the major version: 2.x needs Python 3.12.
_MODULES = {1: "equimo.models.vit", 2: "equimo.vision.models.vit"}


def make():
  """The transformer and its variables, for 8x8 images of one channel in ten classes."""
  vit = importlib.import_module(_MODULES[_version()])
  transformer: Any = vit.VisionTransformer  # Typed as a module without arguments.
  module = transformer(
    img_size=8,
    in_channels=1,
    dim=64,
    patch_size=2,
    num_heads=4,
    depths=[_DEPTH],
    reg_tokens=0,
    num_classes=10,
    key=jax.random.key(0),
  )
  taps = [f"blocks/0/blocks/{block}" for block in range(_DEPTH)]
  return capture.from_equinox(module, call=_call, taps=[*taps, "norm"])


def _version() -> int:
  return int(importlib.metadata.version("equimo").partition(".")[0])


def _call(module, image, key):
  """Logits of one image: channels first, and the mode as an argument."""
  image = jnp.moveaxis(image, -1, 0)
  if key is None:
    return module(image, key=jax.random.key(0), inference=True)
  return module(image, key=key, inference=False)
