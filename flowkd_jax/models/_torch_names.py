"""Layer names in the PyTorch code of importable networks."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from flowkd_jax.models._bottleneck_resnet import BottleneckResNet
from flowkd_jax.models._cifar_resnet import CifarResNet
from flowkd_jax.models._cnn import CNN
from flowkd_jax.models._mobilenet_v2 import MobileNetV2
from flowkd_jax.models._resnet import PreActResNet
from flowkd_jax.models._shufflenet_v1 import ShuffleNetV1
from flowkd_jax.models._shufflenet_v2 import ShuffleNetV2
from flowkd_jax.models._vgg import VGG
from flowkd_jax.models._wide_resnet import WideResNet

# PyTorch's name by our path of a layer. The stem comes first.
Names = dict[str, str]

# Layers of a residual block: PyTorch's name by our name.
_PREACTIVATION_BLOCK = {
  "norm_1": "bn1",
  "conv_1": "conv1",
  "norm_2": "bn2",
  "conv_2": "conv2",
  "shortcut": "shortcut.0",
}


def layer_names(model: Any) -> Names:
  """PyTorch's name of each layer of a network, by our path of the layer.

  The names may include layers that a network lacks, such as the projection of a
  shortcut.

  Raises:
    TypeError: If no PyTorch names are known for this kind of network.
  """
  names = _NAMES.get(type(model))
  if names is None:
    *kinds, last = (kind.__name__ for kind in _NAMES)
    raise TypeError(
      f"model: expected a {', '.join(kinds)} or {last}, whose layers have a name in "
      f"PyTorch code, got {type(model).__name__}"
    )
  return names(model)


def _cnn(model: CNN) -> Names:
  names = {}
  for i in range(1, model.num_blocks + 1):
    names |= {f"conv_{i}": f"conv{i}", f"norm_{i}": f"conv{i}_bn"}
  return names | {"hidden": "fc1", "classifier": "fc2"}


def _preactivation_resnet(model: PreActResNet) -> Names:
  names = {"stem": "conv1", "stem_norm": "bn1", "classifier": "linear"}
  for i, num_blocks in enumerate(model.stage_sizes, 1):
    for j in range(num_blocks):
      for ours, theirs in _PREACTIVATION_BLOCK.items():
        names[f"stage_{i}_block_{j + 1}/{ours}"] = f"layer{i}.{j}.{theirs}"
  return names


def _cifar_resnet(model: CifarResNet) -> Names:
  names = _normalized("stem", "conv1", "bn1")
  for i in range(1, len(model.widths) + 1):
    for j in range(model.num_blocks):
      ours, theirs = f"body/stage_{i}_block_{j + 1}", f"layer{i}.{j}"
      for k in (1, 2):
        names |= _normalized(f"{ours}/conv_{k}", f"{theirs}.conv{k}", f"{theirs}.bn{k}")
      shortcut = f"{theirs}.downsample"
      names |= _normalized(f"{ours}/shortcut", f"{shortcut}.0", f"{shortcut}.1")
  return names | {"body/classifier": "fc"}


def _wide_resnet(model: WideResNet) -> Names:
  names = {"stem": "conv1", "norm": "bn1", "classifier": "fc"}
  layers = {"norm_1": "bn1", "conv_1": "conv1", "norm_2": "bn2", "conv_2": "conv2"}
  for i in range(1, model.num_stages + 1):
    for j in range(model.num_blocks):
      for ours, theirs in (layers | {"shortcut": "convShortcut"}).items():
        names[f"stage_{i}_block_{j + 1}/{ours}"] = f"block{i}.layer.{j}.{theirs}"
  return names


def _vgg(model: VGG) -> Names:
  names = {}
  for i, num_convolutions in enumerate(model.num_convolutions):
    for j in range(num_convolutions):
      # A block counts convolution, BatchNorm and ReLU.
      layers = f"block{i}.{3 * j}", f"block{i}.{3 * j + 1}"
      names |= _normalized(f"block_{i}_conv_{j + 1}", *layers)
  return names | {"classifier": "classifier"}


def _mobilenet_v2(model: MobileNetV2) -> Names:
  names = _normalized("stem", "conv1.0", "conv1.1")
  for i, num_blocks in enumerate(model.group_sizes):
    for j in range(num_blocks):
      ours, theirs = f"group_{i + 1}_block_{j + 1}", f"blocks.{i}.{j}.conv"
      for k, number in enumerate((0, 3, 6), start=1):
        layers = f"{theirs}.{number}", f"{theirs}.{number + 1}"
        names |= _normalized(f"{ours}/conv_{k}", *layers)
  head = _normalized("head", "conv2.0", "conv2.1")
  return names | head | {"classifier": "classifier.0"}


def _shufflenet_v1(model: ShuffleNetV1) -> Names:
  return _stages(model.stage_sizes, 3) | {"classifier": "linear"}


def _shufflenet_v2(model: ShuffleNetV2) -> Names:
  names = _stages(model.stage_sizes, 5)
  return names | _normalized("head", "conv2", "bn2") | {"classifier": "linear"}


def _bottleneck_resnet(model: BottleneckResNet) -> Names:
  names = _stages(model.stage_sizes, 3)
  for i, num_blocks in enumerate(model.stage_sizes, start=1):
    for j in range(num_blocks):
      shortcut = f"layer{i}.{j}.shortcut"
      ours = f"stage_{i}_block_{j + 1}/shortcut"
      names |= _normalized(ours, f"{shortcut}.0", f"{shortcut}.1")
  return names | {"classifier": "linear"}


def _stages(stage_sizes: Sequence[int], num_convolutions: int) -> Names:
  """Names of the stem and of numbered convolutions in the blocks of stages."""
  names = _normalized("stem", "conv1", "bn1")
  for i, num_blocks in enumerate(stage_sizes, start=1):
    for j in range(num_blocks):
      for k in range(1, num_convolutions + 1):
        ours, theirs = f"stage_{i}_block_{j + 1}/conv_{k}", f"layer{i}.{j}"
        names |= _normalized(ours, f"{theirs}.conv{k}", f"{theirs}.bn{k}")
  return names


def _normalized(ours: str, convolution: str, norm: str) -> Names:
  """Names of the two layers of a `NormalizedConvolution`."""
  return {f"{ours}/conv": convolution, f"{ours}/norm": norm}


_NAMES: dict[type, Callable[[Any], Names]] = {
  CNN: _cnn,
  PreActResNet: _preactivation_resnet,
  CifarResNet: _cifar_resnet,
  WideResNet: _wide_resnet,
  VGG: _vgg,
  MobileNetV2: _mobilenet_v2,
  ShuffleNetV1: _shufflenet_v1,
  ShuffleNetV2: _shufflenet_v2,
  BottleneckResNet: _bottleneck_resnet,
}
