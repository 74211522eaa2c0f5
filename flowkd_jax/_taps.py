"""Taps of two networks, paired by name or by position.

Taps are activations of a network. `jax.jit` and every other transformation returns
dictionaries with sorted keys, so the order of a mapping says nothing about the order of
the layers. Taps with names are therefore paired by name, and sequences without names by
position. Functions that depend on the order raise an error for a mapping.
"""

import operator
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
from typing import Any
from typing import NamedTuple

from jaxtyping import Array
from jaxtyping import Float

Tap = Float[Array, "batch ..."]
Taps = Mapping[str, Tap] | Sequence[Tap] | Sequence[tuple[str, Tap]]
Pairs = Mapping[str, str]


class TapPair(NamedTuple):
  """A student tap and the teacher tap that it is compared with.

  Attributes:
    name: Name of the student tap. Taps of a sequence without names are called "tap 0",
      "tap 1" and so on.
    student: Activation of the student.
    teacher: Activation of the teacher.
  """

  name: str
  student: Tap
  teacher: Tap


def pair_taps(
  student: Taps,
  teacher: Taps,
  *,
  pairs: Pairs | None = None,
  layer_map: Sequence[int] | None = None,
) -> list[TapPair]:
  """Pairs the taps of a student with those of its teacher.

  Taps with names (mappings, sequences of `(name, array)` pairs, named tuples) are
  paired by name, in any order. Every student name must be among the teacher's names,
  and further teacher taps are ignored. Sequences of arrays are paired by position.

  Args:
    student: Student taps: a mapping `{name: array}`, a sequence of arrays, or a
      sequence of `(name, array)` pairs.
    teacher: Teacher taps. They must have names if the student taps have names.
    pairs: Name of the teacher tap for each name of a student tap. Only the student taps
      among its keys are compared.
    layer_map: Index of the teacher tap for each student tap, for sequences.

  Returns:
    The pairs, in the order of `pairs` or of the student taps.

  Raises:
    TypeError: If taps, `pairs` or `layer_map` have the wrong type.
    ValueError: If taps cannot be paired. The message shows the argument to write.
  """
  if layer_map is not None:
    return _pair_by_index(student, teacher, pairs, layer_map)
  named = are_named("student", student), are_named("teacher", teacher)
  if all(named):
    return _pair_by_name(student, teacher, pairs)
  if any(named):
    _refuse_mixture(named[0])
  if pairs is not None:
    raise ValueError(
      "pairs: these taps have no names; expected taps as {name: array} or as "
      f"(name, array) pairs, got sequences of arrays and pairs={pairs!r}"
    )
  return _pair_by_position(student, teacher)


def are_named(argument: str, taps: Taps) -> bool:
  """True if taps have names. Errors are those of `tap_items`."""
  tap_items(argument, taps)
  return isinstance(taps, Mapping) or hasattr(taps, "_fields") or _is_item(taps[0])


def tap_items(argument: str, taps: Taps) -> list[tuple[str, Any]]:
  """Taps as `(name, array)` pairs, for uses that do not depend on the order.

  Args:
    argument: Name of the argument, for error messages.
    taps: Taps. Those of a sequence without names are called "tap 0", "tap 1" and so on.

  Raises:
    TypeError: If `taps` is neither a mapping nor a sequence, or an entry is not an
      array.
    ValueError: If there are no taps, or only some of them have names.
  """
  if isinstance(taps, Mapping):
    items = list(taps.items())
  elif isinstance(taps, Sequence) and not isinstance(taps, str | bytes):
    items = _sequence_items(argument, taps)
  else:
    raise TypeError(
      f"{argument}: expected taps as a mapping {{name: array}}, a sequence of arrays "
      f"or a sequence of (name, array) pairs, got {_described(taps)}"
    )
  if not items:
    raise ValueError(f"{argument}: expected at least one activation, got none")
  for name, tap in items:
    if isinstance(tap, Mapping | Sequence):
      raise TypeError(
        f"{argument}: expected an array for tap {name!r}, got a {type(tap).__name__}"
      )
  return items


def ordered_taps(argument: str, taps: Taps) -> list[tuple[str, Any]]:
  """Taps as `(name, array)` pairs from input to output, for uses that need the order.

  Arguments and further errors are those of `tap_items`.

  Raises:
    TypeError: If `taps` is a mapping, which does not keep the order of the taps.
  """
  if isinstance(taps, Mapping):
    raise TypeError(
      f"{argument}: the order of the taps matters here, and a mapping does not keep it "
      "(jax.jit sorts the keys); state the order, from input to output: "
      f"[(name, {argument}[name]) for name in {_stated(taps)}]"
    )
  return tap_items(argument, taps)


def check_vector_type(argument: str, vector: Any) -> None:
  """Raises TypeError unless `vector` can be a vector with one entry per tap."""
  if isinstance(vector, Mapping):
    raise TypeError(
      f"{argument}: expected a vector, got a mapping, which does not keep the order of "
      "the taps (jax.jit sorts the keys); state the order, from input to output: "
      f"jnp.stack([{argument}[name] for name in {_stated(vector)}])"
    )
  in_order = isinstance(vector, Sequence) and not isinstance(vector, str)
  if in_order and any(isinstance(entry, Sequence | Mapping) for entry in vector):
    in_order = False
  if not in_order and not hasattr(vector, "shape"):
    raise TypeError(
      f"{argument}: expected a vector with one number per tap, got a "
      f"{type(vector).__name__}"
    )


def check_layer_map(
  layer_map: Sequence[int], student_taps: int, teacher_taps: int
) -> tuple[int, ...]:
  """Teacher index of each student tap, as Python numbers.

  Args:
    layer_map: Index of the teacher tap for each student tap.
    student_taps: Number of student taps.
    teacher_taps: Number of teacher taps.

  Raises:
    ValueError: If `layer_map` does not hold the index of a teacher tap for every
      student tap.
  """
  indices = _as_indices(layer_map) or ()
  inside = [0 <= index < teacher_taps for index in indices]
  if len(inside) != student_taps or not all(inside):
    raise ValueError(
      f"layer_map: expected {student_taps} teacher indices from 0 to "
      f"{teacher_taps - 1}, one per student tap, got {layer_map!r}"
    )
  return indices


def listed(names: Iterable[Any]) -> str:
  """Names for a message, in their order. They may have any types."""
  return ", ".join(repr(name) for name in names)


def _sequence_items(argument: str, taps: Any) -> list[tuple[str, Any]]:
  if hasattr(taps, "_fields"):
    return list(zip(taps._fields, taps, strict=True))
  named = [_is_item(tap) for tap in taps]
  if not any(named):
    return [(f"tap {index}", tap) for index, tap in enumerate(taps)]
  names = [tap[0] for tap, has_name in zip(taps, named, strict=True) if has_name]
  if not all(named):
    raise ValueError(
      f"{argument}: expected (name, array) pairs alone or arrays alone, got both; only "
      f"{listed(names)} have names"
    )
  twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
  if twice:
    raise ValueError(f"{argument}: expected each name once, got {twice} more than once")
  return [tuple(tap) for tap in taps]


def _is_item(tap):
  return isinstance(tap, tuple | list) and len(tap) == 2 and isinstance(tap[0], str)


def _described(taps):
  shape = getattr(taps, "shape", None)
  if shape is None:
    return f"a {type(taps).__name__}"
  return f"an array of shape {tuple(shape)}; write [array] for a single tap"


def _stated(taps):
  """Names as a tuple that the reader copies from a message and puts in order."""
  return f"({listed(taps)},)"


def _refuse_mixture(student_is_named):
  names = ("student", "teacher") if student_is_named else ("teacher", "student")
  raise ValueError(
    f"{names[1]}: expected taps with names, as the {names[0]} has, got a sequence "
    "without names; pass {name: array} or (name, array) pairs for both, or sequences "
    "of arrays for both"
  )


def _pair_by_name(student, teacher, pairs):
  students = dict(tap_items("student", student))
  teachers = dict(tap_items("teacher", teacher))
  if pairs is None:
    # Every student tap needs a partner. Further taps of the teacher do no harm.
    missing = [name for name in students if name not in teachers]
    if missing:
      _refuse_names(missing, students, teachers)
    pairs = {name: name for name in students}
  check_pairs(pairs)
  for side, names, taps in (
    ("student", pairs.keys(), students),
    ("teacher", pairs.values(), teachers),
  ):
    missing = [name for name in names if name not in taps]
    if missing:
      raise ValueError(
        f"pairs: the {side} has no tap {listed(missing)}; it has {listed(taps)}"
      )
  return [
    TapPair(name, students[name], teachers[other]) for name, other in pairs.items()
  ]


def check_pairs(pairs: Pairs) -> None:
  """Raises unless `pairs` maps at least one student tap to a teacher tap, by name.

  Raises:
    TypeError: If `pairs` is not a mapping from names to names.
    ValueError: If `pairs` is empty.
  """
  if not isinstance(pairs, Mapping) or not all(
    isinstance(name, Hashable) for name in pairs.values()
  ):
    raise TypeError(
      "pairs: expected a mapping from student taps to teacher taps such as "
      f"{{'student_tap': 'teacher_tap'}}, got {pairs!r}"
    )
  if not pairs:
    raise ValueError("pairs: expected at least one student tap, got none")


def _refuse_names(missing, students, teachers):
  shown = ", ".join(
    f"{name!r}: {name!r}" if name in teachers else f"{name!r}: 'TEACHER_TAP'"
    for name in students
  )
  raise ValueError(
    f"student: the teacher has no tap {listed(missing)}, only {listed(teachers)}; pass "
    f"pairs={{{shown}}} with one of those for each student tap"
  )


def _pair_by_position(student, teacher):
  students, teachers = tap_items("student", student), tap_items("teacher", teacher)
  if len(students) != len(teachers):
    raise ValueError(
      "student, teacher: expected the same number of taps, but the student has "
      f"{len(students)} and the teacher {len(teachers)}; pass layer_map with the "
      "index of the teacher tap for each student tap, or give the taps names"
    )
  return [
    TapPair(name, tap, other)
    for (name, tap), (_, other) in zip(students, teachers, strict=True)
  ]


def _pair_by_index(student, teacher, pairs, layer_map):
  if pairs is not None:
    raise ValueError(
      "pairs, layer_map: expected one of them, got both; use pairs for taps with names "
      "and layer_map for sequences"
    )
  for argument, taps in (("student", student), ("teacher", teacher)):
    if isinstance(taps, Mapping):
      raise TypeError(
        f"layer_map: expected sequences of taps, which have indices, but {argument} is "
        "a mapping; pass pairs={'student_tap': 'teacher_tap'} instead"
      )
  students, teachers = tap_items("student", student), tap_items("teacher", teacher)
  indices = check_layer_map(layer_map, len(students), len(teachers))
  return [
    TapPair(name, tap, teachers[index][1])
    for (name, tap), index in zip(students, indices, strict=True)
  ]


def _as_indices(layer_map):
  """Indices as Python numbers, or None if they are not an ordered set of integers."""
  if isinstance(layer_map, Mapping | Set | str):
    return None
  try:
    # Python counts booleans as integers, but a mask is not a map.
    if any(isinstance(index, bool) for index in layer_map):
      return None
    return tuple(operator.index(index) for index in layer_map)
  except TypeError:  # not iterable, or not integers; a traced array raises it too
    return None
