"""Choice of the logits among the outputs of a model, and errors where it is missing."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

# The logits among the outputs: a position, a name, or a function of the outputs.
LogitsChoice = int | str | Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Entry:
  """The entry of a tuple, a mapping or an object with attributes."""

  key: int | str

  def __call__(self, output: Any) -> Any:
    if isinstance(self.key, str) and not isinstance(output, Mapping):
      return getattr(output, self.key)
    return output[self.key]


def chooser(choice: LogitsChoice) -> Callable[[Any], Any]:
  """The choice as a function of the outputs.

  Raises:
    TypeError: if it is none of the three.
  """
  if callable(choice):
    return choice
  if isinstance(choice, int | str) and not isinstance(choice, bool):
    return Entry(choice)
  raise TypeError(
    f"logits: expected a position, a name or a function of the outputs, got {choice!r}"
  )


def chosen(model: Any, output: Any) -> Any:
  """The output, or the part of it that the model was told to return.

  Raises:
    ValueError: if there is no such part.
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
  """Raises ValueError unless a model returns one array.

  Args:
    name: of the model, for the message.
    output: what it returns.
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
  """Entries of an output by position or name; nested ones stay together."""
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
  """A name that says logits, or the first entry that has their rank."""
  entries = _entries(output)
  keys = [key for key, _ in entries if isinstance(key, str) and "logit" in key]
  keys += [key for key, value in entries if getattr(value, "ndim", 0) == 2]
  return [*keys, *(key for key, _ in entries), 0][0]
