"""Import of PyTorch weights for networks of the same architecture."""

import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flowkd_jax._numerics import finite_weights
from flowkd_jax.models._benchmark_network import BenchmarkNetwork
from flowkd_jax.models._cnn import CNN
from flowkd_jax.models._cnn import smallest_image
from flowkd_jax.models._torch_names import layer_names

Path = tuple[str, ...]

_VARIABLE_NAMES = {
  "kernel": "weight",
  "bias": "bias",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}
# Usual names of the network's state in a checkpoint.
_WRAPPERS = ("model", "state_dict", "net", "model_state_dict")


def from_torch(model: Any, state_dict: Mapping[str, Any]) -> dict[str, Any]:
  """Convert the state of a PyTorch network to variables of a model.

  Kernels change from `[out, in, height, width]` to `[height, width, in, out]`. A dense
  layer after flattened maps is permuted from channels-first to channels-last order; the
  side of these maps, which must be square, follows from the size of the layer.

  Args:
    model: Network with the architecture of the weights: a `CNN` or `PreActResNet` (the
      authors' code), or a network of the benchmark of RepDistiller and mdistiller, such
      as `by_name("resnet32x4")`. It must have the number of classes of the weights.
    state_dict: Names and values (NumPy arrays or PyTorch tensors) as in that code, or a
      checkpoint with such a state under "model", "state_dict", "net" or
      "model_state_dict". `num_batches_tracked` and a common prefix of all names, such
      as `module.` of `DataParallel`, are ignored.

  Raises:
    ValueError: If keys are missing or unexpected, shapes do not fit, or values are not
      finite in float32. The message lists the keys.
    TypeError: If `model` is a network of another kind, or `state_dict` is not a
      mapping.
  """
  layers = layer_names(model)
  template = _template(model, layers, side=1, channels=3)
  arrays = _without_prefix(_read_arrays(_unwrapped(state_dict)), template)
  _check_keys(arrays, template)
  stem = arrays[f"{next(iter(layers.values()))}.weight"]
  sizes = {"side": _map_side(model, arrays), "channels": _channels(stem)}
  if sizes != {"side": 1, "channels": 3}:
    template = _template(model, layers, **sizes)
  _check_shapes(arrays, template)
  finite_weights.check_finite("state_dict", arrays)
  flat = {
    path: jnp.asarray(_convert(model, path, arrays[name]))
    for name, (path, _) in template.items()
  }
  return traverse_util.unflatten_dict(flat)


def _unwrapped(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
  """Find the state of the network in a checkpoint."""
  if not isinstance(state_dict, Mapping):
    raise TypeError(
      "state_dict: expected names and values, or a checkpoint that holds them under "
      f"{' or '.join(map(repr, _WRAPPERS))}, got {type(state_dict).__name__}; pass "
      "what model.state_dict() returned"
    )
  for name in _WRAPPERS:
    if isinstance(inner := state_dict.get(name), Mapping):
      return inner
  return state_dict


def _read_arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
  arrays = {}
  for name, value in state_dict.items():
    name = str(name)
    if name.endswith("num_batches_tracked"):
      continue
    try:
      arrays[name.removeprefix("module.")] = _as_array(value)
    except (TypeError, ValueError):
      raise ValueError(
        f"state_dict: expected an array under every name, got {type(value).__name__} "
        f"under {name!r}; pass the state of the network alone"
      ) from None
  return arrays


def _as_array(value: Any) -> np.ndarray:
  if hasattr(value, "detach"):  # a tensor, perhaps on a GPU, without importing torch
    value = value.detach().cpu()
  if hasattr(value, "float"):  # because NumPy has no bfloat16
    value = value.float()
  with np.errstate(over="ignore"):  # an overflow raises later, with its name
    return np.asarray(value, np.float32)


def _without_prefix(
  arrays: dict[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Remove a prefix that all names share, such as `net.`.

  Raises:
    ValueError: If one prefix has a whole network, and there are further arrays.
  """
  first = next(iter(expected))
  ends = [name.removesuffix(first) for name in arrays if name.endswith(first)]
  prefixes = [each for each in ends if all(each + name in arrays for name in expected)]
  if not prefixes or "" in prefixes:
    return arrays
  if len(arrays) == len(expected):
    return {name.removeprefix(prefixes[0]): array for name, array in arrays.items()}
  raise ValueError(
    "state_dict: expected the state of one network, got whole ones under "
    f"{' and '.join(map(repr, prefixes))}; pass one without its prefix: "
    "{name.removeprefix(p): value for name, value in state.items() if "
    "name.startswith(p)}"
  )


def _template(
  model: nn.Module, layers: Mapping[str, str], *, side: int, channels: int
) -> dict[str, tuple[Path, jax.ShapeDtypeStruct]]:
  """Our path and shape by PyTorch's name, if the last maps are side x side."""
  size = model.smallest_image if isinstance(model, BenchmarkNetwork) else 1
  if isinstance(model, CNN):
    size = smallest_image(model.num_blocks, model.padding, side)
  images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  template = {}
  for path, leaf in traverse_util.flatten_dict(shapes).items():
    _, *modules, variable = path
    layer = layers["/".join(modules)]
    template[f"{layer}.{_VARIABLE_NAMES[variable]}"] = path, leaf
  return template


def _check_keys(arrays: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
  missing = [name for name in expected if name not in arrays]
  unexpected = [name for name in arrays if name not in expected]
  if missing or unexpected:
    raise ValueError(
      f"state_dict: the keys are not those of the model; missing: {_listed(missing)}; "
      f"unexpected: {_listed(unexpected)}; check the kind of network and the number of "
      "blocks"
    )


def _listed(names: Sequence[str], *, separator: str = ", ", most: int = 12) -> str:
  """Join names; of many names, show the first ones and the number of the rest."""
  shown = separator.join(names[:most]) or "none"
  more = len(names) - most
  return f"{shown} and {more} more" if more > 0 else shown


def _channels(stem: np.ndarray) -> int:
  """Number of image channels, from the first kernel; arbitrary if the rank is not 4."""
  return (*stem.shape, 1, 1)[1]


def _map_side(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> int:
  """Side of the last maps, from the size of the dense layer; 1 if none fits."""
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
      f"state_dict: shapes do not fit the model; {_listed(wrong, separator='; ')}; "
      "check its width and number of classes"
    )


def _convert(model: nn.Module, path: Path, array: np.ndarray) -> np.ndarray:
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
