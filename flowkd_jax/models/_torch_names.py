"""Names of layers in the PyTorch code of the networks that can be imported."""

from collections.abc import Callable
from typing import Any

from flowkd_jax.models._cifar_resnet import CifarResNet
from flowkd_jax.models._cnn import CNN
from flowkd_jax.models._resnet import PreActResNet

# Our path of a layer: PyTorch's. The first layer, the stem, comes first.
Names = dict[str, str]

# In a residual block: our name and PyTorch's.
_PREACTIVATION_BLOCK = {
  "norm_1": "bn1",
  "conv_1": "conv1",
  "norm_2": "bn2",
  "conv_2": "conv2",
  "shortcut": "shortcut.0",
}


def layer_names(model: Any) -> Names:
  """PyTorch's name of each layer of a network, by our path of it.

  The names may include layers that a certain network lacks, such as the projection of
  a shortcut.

  Raises:
    TypeError: if the network is of a kind that is not known in PyTorch.
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


def _normalized(ours: str, convolution: str, norm: str) -> Names:
  """Names of the two layers of a `NormalizedConvolution`."""
  return {f"{ours}/conv": convolution, f"{ours}/norm": norm}


_NAMES: dict[type, Callable[[Any], Names]] = {
  CNN: _cnn,
  PreActResNet: _preactivation_resnet,
  CifarResNet: _cifar_resnet,
}
