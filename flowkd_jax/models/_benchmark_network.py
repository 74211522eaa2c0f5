"""Activations that losses of the CIFAR-100 benchmark read, and their names.

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
  """Named activations of a network of the benchmark.

  Attributes:
    maps: Outputs of the stem (f0) and of each stage (f1, f2, ...).
    preactivations: Outputs of each stage before its last ReLU.
    pooled: Input of the classifier.
  """

  maps: Sequence[Maps]
  preactivations: Sequence[Maps]
  pooled: Float[Array, "batch dim"]


class BenchmarkNetwork(nn.Module):
  """Base class of the convolutional networks of the benchmark.

  All networks sow the same names. `taps`, the default of jobs, are the output of each
  stage, averaged down to at most 4x4 (`stage_1`, ...), and the input of the classifier
  (`pooled`). `maps` are the full feature maps `f0` (of the stem), `f1`, ...;
  `preactivations` are the maps `f1_preact`, ... before the last ReLU of each stage.

  Attributes:
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  num_stages: ClassVar[int] = 3
  smallest_image: ClassVar[int] = 1

  num_classes: int = 10
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the default taps, from input to output."""
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
      images: Normalised images.
      train: True if BatchNorm uses (and records) the statistics of the batch.
      mask: Mask of valid rows; None if all are valid.

    Raises:
      ValueError: If the images are too small or have another rank, or the network
        cannot have this width.
      TypeError: If the images are not floating point.
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
    """Compute all activations before the classifier; subclasses define it."""
    raise NotImplementedError

  def classify(
    self, pooled: Float[Array, "batch dim"]
  ) -> Float[Array, "batch classes"]:
    """Logits of a linear layer, initialised as in PyTorch; subclasses may differ."""
    return dense(pooled, self.num_classes, name="classifier", dtype=jnp.float32)


def tap_names(num_stages: int) -> tuple[str, ...]:
  """Names of the pooled maps of the stages, and `pooled`."""
  return (*(f"stage_{i}" for i in range(1, num_stages + 1)), "pooled")


def map_names(num_stages: int) -> tuple[str, ...]:
  """Names of the full maps of stem and stages."""
  return tuple(f"f{i}" for i in range(num_stages + 1))


def preactivation_names(num_stages: int) -> tuple[str, ...]:
  """Names of the maps of the stages before their last ReLU."""
  return tuple(f"f{i}_preact" for i in range(1, num_stages + 1))


def sow_activations(module: nn.Module, found: Activations) -> None:
  """Sow activations under their names."""

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
  """Add a `NormalizedConvolution` in the compact method of a module and apply it.

  Args:
    module: The module, which provides `dtype` and `axis_name` of the layer.
    x: Maps.
    width: Number of channels of the result.
    train: See `NormalizedConvolution`.
    mask: See `NormalizedConvolution`.
    **options: Further fields of the layer, and its `name`.
  """
  layer = NormalizedConvolution(
    width, dtype=module.dtype, axis_name=module.axis_name, **options
  )
  return layer(x, train, mask)
