"""Tap roles: taps found by their position and shape in a network.

Losses whose taps are not named find them by role:

    pooled    last tap that is a vector; the last tap if there is no vector
    last_map  last feature map
    maps      all feature maps but that of the stem, in order
    levels    all maps of `maps`, then the last tap that is a vector
    map_N     number N of `maps`, counted from 1
    tokens    last tap that is a sequence of tokens
    taps      all taps, in order

A row of a feature map has the shape `[height, width, channels]`, a row of tokens
`[tokens, width]`. If a network lists its maps in the attribute `maps`, the stem first,
those are its feature maps; otherwise its taps of that shape are.
"""

import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from flowkd_jax import _taps
from flowkd_jax import capture
from flowkd_jax.methods import _heads

POOLED, LAST_MAP, MAPS, LEVELS = "pooled", "last_map", "maps", "levels"
TOKENS, TAPS = "tokens", "taps"
TAP_ROLES = (POOLED, LAST_MAP, MAPS, "map_N", LEVELS, TOKENS, TAPS)
_STEM = "stem"
_NUMBERED = re.compile(r"map_([1-9][0-9]*)")
RowShapes = Mapping[str, tuple[int, ...]]


class Layout(NamedTuple):
  """Readable layers of a network.

  Attributes:
    shapes: Shape of a row of each tap, from input to output.
    maps: Names of the feature maps, without the stem, from input to output.
    others: Names of further layers, such as maps before their activation.
  """

  shapes: RowShapes
  maps: tuple[str, ...] = ()
  others: tuple[str, ...] = ()

  @property
  def names(self) -> tuple[str, ...]:
    """All names, without duplicates."""
    return tuple(dict.fromkeys([*self.shapes, *self.maps, *self.others]))


def layout(
  model: capture.AnyModel,
  variables: capture.Variables | None,
  images: _heads.Images,
) -> Layout:
  """Layout of a network, from abstract shapes alone.

  Args:
    model: The network.
    variables: See `_heads.row_shapes`.
    images: An example, or its shape.
  """
  taps = tuple(capture.adapt(model).taps)
  shapes = _heads.row_shapes(model, variables, images, taps=taps)
  shapes = {name: shapes[name] for name in taps}
  _, *maps = getattr(model, MAPS, None) or [""]
  if not maps:
    maps = [n for n, shape in shapes.items() if len(shape) == 3 and n != _STEM]
  others = (*getattr(model, MAPS, ())[:1], *getattr(model, "preactivations", ()))
  return Layout(shapes, tuple(maps), others)


def layer_names(model: capture.AnyModel) -> tuple[str, ...]:
  """Layers that a network declares: taps, maps, and maps before their activation."""
  declared = (getattr(model, name, ()) for name in (MAPS, "preactivations"))
  names = [*capture.adapt(model).taps, *(name for names in declared for name in names)]
  return tuple(dict.fromkeys(names))


def is_tap_role(name: str) -> bool:
  """Returns whether a name is a tap role."""
  return name in TAP_ROLES or _NUMBERED.fullmatch(name) is not None


def tap_pairs(
  role: str,
  student: capture.AnyModel,
  teacher: capture.AnyModel,
  image_shape: Sequence[int],
) -> dict[str, str]:
  """Teacher tap of each student tap with a given role.

  Args:
    role: One of `TAP_ROLES`.
    student: The student.
    teacher: The teacher.
    image_shape: Height, width and channels of the images.

  Raises:
    ValueError: If there is no such role, a network has no tap with the role, or the
      networks have different numbers of such taps.
  """
  images = jax.ShapeDtypeStruct((2, *image_shape), np.float32)
  return dict(pairs(role, *(layout(m, None, images) for m in (student, teacher))))


def pairs(role: str, student: Layout, teacher: Layout) -> tuple[tuple[str, str], ...]:
  """Pairs of student and teacher taps with a given role, in order.

  Args:
    role: One of the roles above.
    student: Layout of the student.
    teacher: Layout of the teacher.

  Raises:
    ValueError: If there is no such role, a network has no tap with the role, or the
      networks have different numbers of such taps.
  """
  ours, theirs = (
    taps(role, side, found)
    for side, found in (("student", student), ("teacher", teacher))
  )
  if len(ours) != len(theirs):
    raise ValueError(
      f"taps: expected as many {role} in the teacher as in the student, which has "
      f"{', '.join(ours)}; the teacher has {', '.join(theirs)}. Name the pairs, as in "
      f"[{ours[0]}:{theirs[0]}]"
    )
  return tuple(zip(ours, theirs, strict=True))


def taps(role: str, side: str, layout: Layout) -> tuple[str, ...]:
  """Taps of a network with a given role, from input to output; errors as in `pairs`.

  Args:
    role: One of the roles above.
    side: "student" or "teacher", for messages.
    layout: Layout of the network.
  """
  found = _found(role, layout)
  if found:
    return found
  shown = ", ".join(
    f"{name} {'x'.join(map(str, s))}" for name, s in layout.shapes.items()
  )
  raise ValueError(
    f"taps: expected a {side} with {role}, got one with the taps {shown or 'none'}; "
    "name the pairs, as in [student_tap:teacher_tap]"
  )


def _found(role, layout):
  shapes = layout.shapes
  numbered = _NUMBERED.fullmatch(role)
  if numbered:
    place = int(numbered[1])
    return layout.maps[place - 1 : place]
  vectors, tokens = (
    [name for name, shape in shapes.items() if len(shape) == rank] for rank in (1, 2)
  )
  found = {
    POOLED: (vectors or [*shapes])[-1:],
    LAST_MAP: layout.maps[-1:],
    MAPS: layout.maps,
    LEVELS: (*layout.maps, *vectors[-1:]),
    TOKENS: tokens[-1:],
    TAPS: [*shapes],
  }
  if role not in found:
    raise ValueError(
      f"taps: expected pairs of names, or one of {', '.join(TAP_ROLES)}, got "
      f"{_taps.listed([role])}"
    )
  return tuple(found[role])
