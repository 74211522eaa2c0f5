"""Weights of the authors' PyTorch networks, as variables of ours."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flowkd_jax._numerics import finite_weights
from flowkd_jax.models._cnn import CNN
from flowkd_jax.models._cnn import smallest_image
from flowkd_jax.models._resnet import PreActResNet

Path = tuple[str, ...]

# In a residual block: our name and PyTorch's.
_BLOCK_NAMES = {
  "norm_1": "bn1",
  "conv_1": "conv1",
  "norm_2": "bn2",
  "conv_2": "conv2",
  "shortcut": "shortcut.0",
}
_VARIABLE_NAMES = {
  "kernel": "weight",
  "bias": "bias",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}


def from_torch(model: Any, state_dict: Mapping[str, Any]) -> dict[str, Any]:
  """Variables of `model` from the state of the PyTorch network it mirrors.

  Kernels change from [out, in, height, width] to [height, width, in, out]. The
  dense layer behind the flattened maps was trained on channels-first order and is
  permuted; the side of those maps, which must be square, follows from its size.

  Args:
    model: network with the architecture of the weights.
    state_dict: names and values (NumPy arrays or PyTorch tensors) as in the
      authors' code; `num_batches_tracked` and the prefix `module.` of
      `DataParallel` are ignored.

  Raises:
    ValueError: lists the keys that are missing, unexpected, of a wrong shape, or whose
      values are not finite in float32.
    TypeError: if `model` is neither a `CNN` nor a `PreActResNet`.
  """
  if not isinstance(model, CNN | PreActResNet):
    raise TypeError(
      f"model: expected a CNN or a PreActResNet, got {type(model).__name__}"
    )
  arrays = _read_arrays(state_dict)
  _check_keys(arrays, _template(model, side=1, channels=3))
  template = _template(model, side=_map_side(model, arrays), channels=_channels(arrays))
  _check_shapes(arrays, template)
  finite_weights.check_finite("state_dict", arrays)
  flat = {
    path: jnp.asarray(_convert(model, path, arrays[name]))
    for name, (path, _) in template.items()
  }
  return traverse_util.unflatten_dict(flat)


def _read_arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
  arrays = {}
  for name, value in state_dict.items():
    if name.endswith("num_batches_tracked"):
      continue
    if hasattr(value, "detach"):  # a tensor, perhaps on a GPU; torch not needed
      value = value.detach().cpu()
    with np.errstate(over="ignore"):  # what overflows is refused with its name
      arrays[name.removeprefix("module.")] = np.asarray(value, np.float32)
  return arrays


def _template(
  model: CNN | PreActResNet, *, side: int, channels: int
) -> dict[str, tuple[Path, jax.ShapeDtypeStruct]]:
  """By PyTorch's name: our path and shape, if the last maps are side x side."""
  size = 1
  if isinstance(model, CNN):
    size = smallest_image(model.num_blocks, model.padding, side)
  images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  layers = _layer_names(model)
  template = {}
  for path, leaf in traverse_util.flatten_dict(shapes).items():
    _, *modules, variable = path
    layer = layers["/".join(modules)]
    template[f"{layer}.{_VARIABLE_NAMES[variable]}"] = path, leaf
  return template


def _layer_names(model: CNN | PreActResNet) -> dict[str, str]:
  """PyTorch's name of each of our layers, as in the authors' code."""
  if isinstance(model, CNN):
    names = {"hidden": "fc1", "classifier": "fc2"}
    for i in range(1, model.num_blocks + 1):
      names |= {f"conv_{i}": f"conv{i}", f"norm_{i}": f"conv{i}_bn"}
    return names
  names = {"stem": "conv1", "stem_norm": "bn1", "classifier": "linear"}
  for i, num_blocks in enumerate(model.stage_sizes, 1):
    for j in range(num_blocks):
      for ours, theirs in _BLOCK_NAMES.items():
        names[f"stage_{i}_block_{j + 1}/{ours}"] = f"layer{i}.{j}.{theirs}"
  return names


def _check_keys(arrays: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
  missing = [name for name in expected if name not in arrays]
  unexpected = [name for name in arrays if name not in expected]
  if missing or unexpected:
    raise ValueError(
      "state_dict: the keys are not those of the model; missing: "
      f"{', '.join(missing) or 'none'}; unexpected: "
      f"{', '.join(unexpected) or 'none'}; check the number of blocks"
    )


def _channels(arrays: Mapping[str, np.ndarray]) -> int:
  """Channels of the images; anything if the first kernel is not of rank 4."""
  return (*arrays["conv1.weight"].shape, 1, 1)[1]


def _map_side(model: CNN | PreActResNet, arrays: Mapping[str, np.ndarray]) -> int:
  """Side of the last maps, from the dense layer; 1 if nothing fits it."""
  if not isinstance(model, CNN):
    return 1
  inputs = (1, *arrays["fc1.weight"].shape)[-1]
  return max(1, math.isqrt(inputs // _last_width(model)))


def _check_shapes(
  arrays: Mapping[str, np.ndarray],
  template: Mapping[str, tuple[Path, jax.ShapeDtypeStruct]],
) -> None:
  wrong = []
  for name, (path, leaf) in template.items():
    expected = leaf.shape
    if path[-1] == "kernel":
      expected = (*leaf.shape[::-1][:2], *leaf.shape[:-2])
    if arrays[name].shape != expected:
      wrong.append(f"{name}: expected {expected}, got {arrays[name].shape}")
  if wrong:
    raise ValueError(
      f"state_dict: shapes do not fit the model; {'; '.join(wrong)}; check its "
      "width and number of classes"
    )


def _convert(model: CNN | PreActResNet, path: Path, array: np.ndarray) -> np.ndarray:
  if path[-1] != "kernel":
    return array
  if path[-2] == "hidden" and isinstance(model, CNN):
    outputs, inputs = array.shape
    channels = _last_width(model)
    side = math.isqrt(inputs // channels)
    array = array.reshape(outputs, channels, side, side)
    array = array.transpose(0, 2, 3, 1).reshape(outputs, inputs)
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _last_width(model: CNN) -> int:
  return model.width * 2 ** (model.num_blocks - 1)
