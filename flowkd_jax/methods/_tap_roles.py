"""Taps by what they are in a network, for losses whose taps are not given.

    pooled    the last tap that is a vector; the last tap if none is
    last_map  the last feature map
    maps      all feature maps but that of the stem, in order
    levels    these maps and the last tap that is a vector
    map_N     map number N of these, from 1
    tokens    the last tap that has tokens
    taps      all taps, in order

A feature map is `[height, width, channels]` in a row, tokens are `[tokens, width]`.
Networks that name their full maps in `maps`, the stem first, give those; of others the
maps are taps.
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
  """Names of what a network lets be read.

  Attributes:
    shapes: Shape of a row of each tap, from input to output.
    maps: Names of its feature maps but that of the stem, from input to output.
    others: Further names, such as those of maps before their activation.
  """

  shapes: RowShapes
  maps: tuple[str, ...] = ()
  others: tuple[str, ...] = ()

  @property
  def names(self) -> tuple[str, ...]:
    """All names, each once."""
    return tuple(dict.fromkeys([*self.shapes, *self.maps, *self.others]))


def layout(
  model: capture.AnyModel,
  variables: capture.Variables | None,
  images: _heads.Images,
) -> Layout:
  """Layout of a network; nothing is computed.

  Args:
    model: The network.
    variables: As in `_heads.row_shapes`.
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
  """Names that a network declares: taps, full maps, maps before their activation."""
  declared = (getattr(model, name, ()) for name in (MAPS, "preactivations"))
  names = [*capture.adapt(model).taps, *(name for names in declared for name in names)]
  return tuple(dict.fromkeys(names))


def is_tap_role(name: str) -> bool:
  """Returns whether a name is that of a role."""
  return name in TAP_ROLES or _NUMBERED.fullmatch(name) is not None


def tap_pairs(
  role: str,
  student: capture.AnyModel,
  teacher: capture.AnyModel,
  image_shape: Sequence[int],
) -> dict[str, str]:
  """Teacher tap of each student tap that has a role.

  Args:
    role: One of `TAP_ROLES`.
    student: The student.
    teacher: The teacher.
    image_shape: Height, width and channels of the images.

  Raises:
    ValueError: As `pairs` raises it.
  """
  images = jax.ShapeDtypeStruct((2, *image_shape), np.float32)
  return dict(pairs(role, *(layout(m, None, images) for m in (student, teacher))))


def pairs(role: str, student: Layout, teacher: Layout) -> tuple[tuple[str, str], ...]:
  """Taps of both networks that have the role, paired in their order.

  Args:
    role: One of the roles above.
    student: Layout of the student.
    teacher: Layout of the teacher.

  Raises:
    ValueError: If there is no such role, a network has no such tap, or they have
      unlike numbers of them.
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
  """Taps of a network that have the role, from input to output; errors as in `pairs`.

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
