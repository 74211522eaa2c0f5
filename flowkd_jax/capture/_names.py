"""Names of taps: patterns, numbering, and messages about unknown names."""

import difflib
import fnmatch
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax

from flowkd_jax.capture import _tags

Taps = dict[str, jax.Array]


class Tap(NamedTuple):
  """Activation of a model that can be captured.

  Attributes:
    name: Name of the tap.
    sown: True if the model sows it; False if it is the output of a module.
    shape: Shape of the activation, including the batch axis.
    dtype: Data type of the activation.
    row_flops: Operations per row from the input to the tap, in convolutions and matrix
      products. A multiply-add counts as two. A loop over layers counts whole.
  """

  name: str
  sown: bool
  shape: tuple[int, ...]
  dtype: Any
  row_flops: int

  @property
  def width(self) -> int:
    """Number of entries of a row."""
    return math.prod(self.shape[1:])

  @property
  def row_bytes(self) -> int:
    """Memory of a row in bytes."""
    return self.width * self.dtype.itemsize

  @property
  def pair_flops(self) -> int:
    """Operations of the inner product of two rows in a pairwise loss."""
    return 2 * self.width


def named(found: Iterable[_tags.Tagged]) -> tuple[Taps, Taps]:
  """Activations by name: sown ones, and outputs of modules with other names."""
  calls: dict[_tags.Label, list[jax.Array]] = {}
  for tagged in found:
    value = tagged.value
    each = [value]
    if tagged.loops:
      each = [*value.reshape(-1, *value.shape[tagged.loops :])]
    calls.setdefault(tagged.label, []).extend(each)
  sown, modules = {}, {}
  for label, values in calls.items():
    part = "" if label.part is None else f"/{label.part}"
    for number, value in enumerate(values):
      call = f"/{number}" if len(values) > 1 else ""
      (sown if label.sown else modules)[f"{label.name}{call}{part}"] = value
  names = {label.name for label in calls if label.sown}
  other = {
    name: value
    for name, value in modules.items()
    if name not in sown and name not in names
  }
  return sown, other


def any_matches(patterns: Sequence[str]) -> Callable[[str], bool]:
  """Make a predicate that is True if a pattern may match a tap at or below a path."""
  split = [pattern.split("/") for pattern in patterns]
  # The last one or two parts may be the numbers of a call and of an array.
  split += [
    parts[:-last]
    for parts in split
    for last in (1, 2)
    if all(part.isdigit() or set(part) & set("*?[") for part in parts[-last:])
  ]
  return lambda path: any(_matches(path.split("/"), each) for each in split)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
  if not pattern or not parts:
    return not parts and all(part == "**" for part in pattern)
  if pattern[0] == "**":
    return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
  return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def checked(taps: Any) -> tuple[str, ...] | None:
  """Convert names or patterns to a tuple; None stays None.

  Raises:
    TypeError: If `taps` is not an ordered sequence of strings.
  """
  if taps is None:
    return None
  if isinstance(taps, str | bytes | set | frozenset) or not isinstance(taps, Iterable):
    raise TypeError(
      "taps: expected a sequence of names, such as ['block_1', 'dense'], got the "
      f"{type(taps).__name__} {taps!r}"
    )
  names = tuple(taps)
  wrong = [name for name in names if not isinstance(name, str)]
  if wrong:
    raise TypeError(
      f"taps: expected names that are strings, got {', '.join(map(repr, wrong))}"
    )
  return names


def expand(found: Mapping[str, Any], wanted: Sequence[str]) -> tuple[str, ...]:
  """Replace patterns by the matching names; a pattern without a match stays."""
  names: dict[str, None] = {}
  for pattern in wanted:
    parts = pattern.split("/")
    matching = [name for name in found if _matches(name.split("/"), parts)]
    exact = pattern in found
    names |= dict.fromkeys([pattern] if exact or not matching else matching)
  return tuple(names)


def no_such_taps(model: str, missing: Sequence[str], offered: Sequence[Tap]) -> str:
  """Error message for taps that a model does not have."""
  sown, modules = (
    [tap.name for tap in offered if tap.sown is x] for x in (True, False)
  )
  return (
    f"taps: {model} has no {', '.join(missing)}; it sows "
    f"{', '.join(sown) or 'nothing'} and has the modules "
    f"{', '.join(modules) or 'none'}{_nearest(missing[0], [*sown, *modules])}"
  )


def check_paths(model: str, taps: Sequence[str], paths: Sequence[str]) -> None:
  """Raise ValueError if a name or pattern matches no module of a model.

  Args:
    model: Name of the model, for the message.
    taps: Names or patterns of taps.
    paths: Paths of the modules of a model that sows nothing.

  Raises:
    ValueError: If a name or pattern has no match.
  """
  unknown = [tap for tap in taps if not any(map(any_matches((tap,)), paths))]
  if unknown:
    raise ValueError(
      f"taps: {model} has no {', '.join(unknown)}; it sows nothing and has the modules "
      f"{', '.join(paths) or 'none'}{_nearest(unknown[0], paths)}"
    )


def _nearest(name: str, known: Sequence[str]) -> str:
  near = difflib.get_close_matches(name, known, n=3)
  return f"; did you mean {' or '.join(near)}?" if near else ""
