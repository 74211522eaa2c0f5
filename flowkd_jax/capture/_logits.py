"""Choice of the logits among the outputs of a model, and its errors."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

# Choice of the logits: a position, a name, or a function of the outputs.
LogitsChoice = int | str | Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Entry:
  """Getter of an entry of a tuple, a mapping or an object with attributes."""

  key: int | str

  def __call__(self, output: Any) -> Any:
    if isinstance(self.key, str) and not isinstance(output, Mapping):
      return getattr(output, self.key)
    return output[self.key]


def chooser(choice: LogitsChoice) -> Callable[[Any], Any]:
  """Convert a choice of the logits to a function of the outputs.

  Raises:
    TypeError: If the choice is not a position, a name or a function.
  """
  if callable(choice):
    return choice
  if isinstance(choice, int | str) and not isinstance(choice, bool):
    return Entry(choice)
  raise TypeError(
    f"logits: expected a position, a name or a function of the outputs, got {choice!r}"
  )


def chosen(model: Any, output: Any) -> Any:
  """Chosen part of the output, or the whole output if nothing was chosen.

  Raises:
    ValueError: If the output has no such part.
  """
  choose = getattr(model, "logits", None)
  if choose is None:
    return output
  try:
    return choose(output)
  except (KeyError, IndexError, AttributeError, TypeError) as error:
    raise ValueError(
      f"logits: {model.name} has no such output ({type(error).__name__}: {error}); it "
      f"returns {_described(output)}"
    ) from error


def check_logits(name: str, output: Any) -> None:
  """Raise ValueError unless a model returns a single array.

  Args:
    name: Name of the model, for the message.
    output: Output of the model.
  """
  if _is_array(output):
    return
  raise ValueError(
    f"model: expected {name} to return its logits alone, got a "
    f"{type(output).__name__} of {_described(output)}; choose the logits, for example "
    f"with capture.with_logits(model, {_suggested(output)!r})"
  )


def _is_array(value: Any) -> bool:
  return isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _entries(output: Any) -> list[tuple[Any, Any]]:
  """Entries of an output by position or name; nested outputs are one entry."""
  if isinstance(output, Mapping):
    return [*output.items()]
  fields = getattr(output, "_fields", None)
  if fields is not None:
    return [(name, getattr(output, name)) for name in fields]
  if dataclasses.is_dataclass(output):
    names = [field.name for field in dataclasses.fields(output)]
    return [(name, getattr(output, name)) for name in names]
  if isinstance(output, Sequence) and not isinstance(output, str | bytes):
    return [*enumerate(output)]
  return []


def _described(output: Any) -> str:
  """Names, dtypes and shapes of the outputs."""
  if _is_array(output):
    return f"one array, {_form(output)}"
  leaves = jax.tree_util.tree_flatten_with_path(output)[0]
  found = [
    f"{jax.tree_util.keystr(path)}: {_form(leaf)}" for path, leaf in leaves if path
  ]
  return ", ".join(found) or "no arrays"


def _form(leaf: Any) -> str:
  if not hasattr(leaf, "shape"):
    return type(leaf).__name__
  return f"{np.dtype(leaf.dtype).name}{[*leaf.shape]}"


def _suggested(output: Any) -> int | str:
  """Key of an entry named "logits", or of the first entry with the rank of logits."""
  entries = _entries(output)
  keys = [key for key, _ in entries if isinstance(key, str) and "logit" in key]
  keys += [key for key, value in entries if getattr(value, "ndim", 0) == 2]
  return [*keys, *(key for key, _ in entries), 0][0]
