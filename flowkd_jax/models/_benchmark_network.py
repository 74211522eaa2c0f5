"""Activations that the losses of the CIFAR-100 benchmark read, and their names.

The benchmark is that of Tian et al., "Contrastive Representation Distillation",
https://arxiv.org/abs/1910.10699 (RepDistiller), whose networks mdistiller shares.
"""

from collections.abc import Sequence
from typing import Any
from typing import ClassVar
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax.models._building_blocks import dense
from flowkd_jax.models._building_blocks import prepare_images
from flowkd_jax.models._normalized_convolution import NormalizedConvolution
from flowkd_jax.models._resnet import small_map

Maps = Float[Array, "batch height width channels"]


class Activations(NamedTuple):
  """Activations of a network that the benchmark names.

  Attributes:
    maps: f0, the result of the stem, then f1, f2, ..., the result of each stage.
    preactivations: the same of the stages (not of the stem) before the last ReLU.
    pooled: the input of the classifier.
  """

  maps: Sequence[Maps]
  preactivations: Sequence[Maps]
  pooled: Float[Array, "batch dim"]


class BenchmarkNetwork(nn.Module):
  """Base of the convolutional networks of the benchmark; use a class below it.

  All sow the same names. `taps`, which jobs use if nothing else is asked for, are the
  result of each stage, averaged to 4x4 where it is larger (`stage_1`, ...), and the
  input of the classifier (`pooled`). Besides there are the full maps `f0`, `f1`, ...
  (`maps`), f0 that of the stem, and `f1_preact`, ... (`preactivations`), the same
  before the last ReLU.

  Attributes:
    num_classes: number of logits.
    dtype: compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: mapped axis over which BatchNorm takes statistics in training.
  """

  num_stages: ClassVar[int] = 3
  smallest_image: ClassVar[int] = 1

  num_classes: int = 10
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the activations to be distilled and measured, from input to output."""
    return tap_names(self.num_stages)

  @property
  def maps(self) -> tuple[str, ...]:
    """Names of the full maps, from input to output: f0 of the stem, f1, ..."""
    return map_names(self.num_stages)

  @property
  def preactivations(self) -> tuple[str, ...]:
    """Names of the maps of the stages before their last ReLU: f1_preact, ..."""
    return preactivation_names(self.num_stages)

  @nn.compact
  def __call__(
    self,
    images: Float[Array, "batch height width channels"],
    train: bool = False,
    mask: Bool[Array, " batch"] | None = None,
  ) -> Float[Array, "batch classes"]:
    """Logits of a batch of images.

    Args:
      images: normalised images.
      train: whether BatchNorm uses (and records) the statistics of the batch.
      mask: rows that are valid; none means all.

    Raises:
      ValueError: if the images are too small or of another rank, or the width is none
        that the network can have.
      TypeError: if the images are not floating.
    """
    x = prepare_images(
      images,
      mask,
      smallest=self.smallest_image,
      network=type(self).__name__,
      dtype=self.dtype,
    )
    found = self.activations(x, train, mask)
    sow_activations(self, found)
    return self.classify(found.pooled.astype(jnp.float32))

  def activations(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> Activations:
    """All but the classifier; a subclass defines it."""
    raise NotImplementedError

  def classify(
    self, pooled: Float[Array, "batch dim"]
  ) -> Float[Array, "batch classes"]:
    """Logits; a linear layer initialised as in PyTorch, unless a subclass differs."""
    return dense(pooled, self.num_classes, name="classifier", dtype=jnp.float32)


def tap_names(num_stages: int) -> tuple[str, ...]:
  """Names of the small maps of the stages, and `pooled`."""
  return (*(f"stage_{i}" for i in range(1, num_stages + 1)), "pooled")


def map_names(num_stages: int) -> tuple[str, ...]:
  """Names of the full maps of stem and stages."""
  return tuple(f"f{i}" for i in range(num_stages + 1))


def preactivation_names(num_stages: int) -> tuple[str, ...]:
  """Names of the maps of the stages before their last ReLU."""
  return tuple(f"f{i}_preact" for i in range(1, num_stages + 1))


def sow_activations(module: nn.Module, found: Activations) -> None:
  """Sows activations under the names above."""

  def sow(name: str, x: Array) -> None:
    module.sow("intermediates", name, x)

  sow("f0", found.maps[0])
  stages = zip(found.maps[1:], found.preactivations, strict=True)
  for i, (x, before) in enumerate(stages, start=1):
    sow(f"f{i}_preact", before)
    sow(f"f{i}", x)
    sow(f"stage_{i}", small_map(x))
  sow("pooled", found.pooled)


def convolved(
  module: Any,
  x: Maps,
  width: int,
  train: bool,
  mask: Bool[Array, " batch"] | None,
  **options: Any,
) -> Maps:
  """Result of a new `NormalizedConvolution` within the compact method of a module.

  Args:
    module: the module, whose `dtype` and `axis_name` the layer takes.
    x: maps.
    width: channels of the result.
    train: as in `NormalizedConvolution`.
    mask: as in `NormalizedConvolution`.
    **options: further fields of the layer, and its `name`.
  """
  layer = NormalizedConvolution(
    width, dtype=module.dtype, axis_name=module.axis_name, **options
  )
  return layer(x, train, mask)
