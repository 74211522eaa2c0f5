"""Weights of PyTorch networks, read from a .npz file that a flag names."""

import zipfile
import zlib
from typing import Any

import numpy as np

from flowkd_jax import models
from flowkd_jax.jobs import networks

__all__ = [
  "check",
  "read",
  "variables",
]

# Biases of the classifiers of importable networks; one entry per class.
_CLASSIFIERS = (
  *("fc2.bias", "linear.bias", "fc.bias", "classifier.bias", "classifier.0.bias"),
)


def read(flag: str, path: str) -> dict[str, np.ndarray]:
  """Read the arrays of a .npz file.

  Args:
    flag: The flag that names the file, with its dashes.
    path: The file.

  Raises:
    ValueError: If the file is not a complete .npz file of numbers.
  """
  try:
    # NumPy would leave the file open if it is not a .npz file.
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
      arrays = {name: np.asarray(file[name]) for name in file.files}
    words = [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]
    if not words:
      return arrays
    reason = f"{', '.join(words)}: no numbers"
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    # NumPy takes any other file for pickled objects, which are never loaded here.
    unknown = "pickle" in str(error) or not str(error)
    reason = "it is of another format" if unknown else str(error)
  except (AttributeError, TypeError, NotImplementedError):
    reason = "it holds one array, or is compressed in a way that NumPy cannot read"
  raise ValueError(
    f"{flag}: expected a .npz file that numpy.savez made of PyTorch weights, got "
    f"{path} ({reason})"
  )


def variables(flag: str, path: str, network_flag: str, model: Any) -> dict[str, Any]:
  """Read the variables of a network from a file.

  Args:
    flag: The flag that names the file, with its dashes.
    path: The file.
    network_flag: The flag that names the network, with its dashes.
    model: The network.

  Raises:
    ValueError: If the file cannot be read, or holds another network. The message names
      the flag.
  """
  return _converted(flag, path, read(flag, path), network_flag, model)


def check(flag: str, path: str, network_flag: str, name: str) -> None:
  """Check a file of weights before the data set's number of classes is known.

  Args:
    flag: The flag that names the file, with its dashes.
    path: The file.
    network_flag: The flag that names the network, with its dashes.
    name: The network, as in `networks.by_name`.

  Raises:
    ValueError: If the file cannot be read, or holds another network. The message names
      the flag.
  """
  arrays = read(flag, path)
  heads = [a for key, a in arrays.items() if key.endswith(_CLASSIFIERS) and a.ndim]
  options = {"num_classes": len(heads[0])} if heads else {}
  model = networks.by_name(name, **options)
  _converted(flag, path, arrays, network_flag, model)


def _converted(flag, path, arrays, network_flag, model):
  try:
    return models.from_torch(model, arrays)
  except TypeError as error:
    raise ValueError(f"{network_flag}: {error}") from None
  except ValueError as error:
    raise ValueError(f"{flag}: {path}: {error}") from None
