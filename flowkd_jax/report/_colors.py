"""Colours of all pictures: networks by their role, taps, parts of time, frames.

A colour means one role in every picture: no other network is ever drawn in the colour
of the teacher, the auxiliary, the student, or a control. Networks without a role have
the free colours in order. Any two styles differ to colour-blind people too, or have
different marks; `tests/report/colors_test.py` computes it.
"""

import itertools
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results


class Style(NamedTuple):
  """Look of a network in a picture.

  Attributes:
    color: Colour, as `#RRGGBB`.
    mark: Matplotlib's marker. Lines with a mark other than "o" show it at any number
      of points.
  """

  color: str
  mark: str = "o"


# Okabe and Ito's colours as far as they go. A network and its control on labels have
# neighbouring hues, the control the lighter one.
ROLES = {
  "teacher": Style("#404040"),
  "auxiliary": Style("#0072B2"),
  "auxiliary on labels": Style("#56B4E9"),
  "student on labels": Style("#E69F00"),
  "student": Style("#D55E00"),
  "control": Style("#999999", "s"),
  "KD": Style("#009E73"),
}
_FREE = ("#CC79A7", "#661100", "#785EF0", "#332288")
_FURTHER_MARKS = ("^", "D", "v", "P", "X")

# Roles of the networks that the jobs train, by their names.
_ROLE_OF = {
  "teacher": "teacher",
  "auxiliary": "auxiliary",
  "auxiliary_labels": "auxiliary on labels",
  "student_labels": "student on labels",
  "erm": "student on labels",
  "fedavg": "student on labels",
  "student": "student",
  "fedgen": "student",
  "student_kd": "KD",
  "kd": "KD",
  "student_unrelated": "control",
  "student_kd_rotations": "control",
  "kd_random": "control",
  "fedgen_untrained": "control",
}

# Parts of time fill areas; these light colours are none of a network's.
PARTS = {
  "steps": "#44BB99",
  "compiling": "#EEDD88",
  "measuring": "#77AADD",
  "waiting for data": "#EE8866",
  "other": "#DDDDDD",
}

# Frames of images: of the class that was asked for, of another, the query itself.
RIGHT, WRONG, QUERY = "#009E73", "#D55E00", "#404040"
# Mark of what is chosen in a matrix of shades of blue.
CHOSEN = "#D55E00"


def network_styles(
  names: Iterable[str], roles: Mapping[str, str] | None = None
) -> dict[str, Style]:
  """A style for each network: that of its role, or the next free one.

  Args:
    names: Names of the networks. Free styles go in this order, so pass the same names
      for all pictures that are seen together.
    roles: Roles of networks, one of the keys of `ROLES`; by default those of the
      networks that the jobs train, such as "student_labels". If several networks have
      one role, the first has its style.

  Raises:
    ValueError: If there is no such role.

  Example:
    >>> styles = network_styles(["teacher", "student", "mine"])
    >>> styles["student"].color, styles["mine"].color
    ('#D55E00', '#CC79A7')
  """
  free = _free_styles()
  styles: dict[str, Style] = {}
  for name in dict.fromkeys(names):
    style = _style_of_role(name, roles or {})
    if style is None or style in styles.values():
      style = next(free)
    styles[name] = style
  return styles


def _style_of_role(name: str, roles: Mapping[str, str]) -> Style | None:
  role = roles.get(name, _ROLE_OF.get(name))
  if role is not None and role not in ROLES:
    raise ValueError(
      f"roles: expected one of {', '.join(ROLES)} for {name!r}, got {role!r}"
    )
  return None if role is None else ROLES[role]


def _free_styles() -> Iterator[Style]:
  yield from (Style(color) for color in _FREE)
  for mark in itertools.cycle(_FURTHER_MARKS):
    yield from (Style(color, mark) for color in _FREE)


def styles_of_run(metrics: MetricLog, results: Results) -> dict[str, Style]:
  """Styles of all networks of a run, the same with and without its metrics.

  Args:
    metrics: Metrics of `read_metrics`.
    results: Results of `read_results`; a network may have a "role".
  """
  names = [*(network["name"] for network in results)]
  names += [entry["stage"] for entry in metrics]
  roles = {network["name"]: network["role"] for network in results if "role" in network}
  return network_styles(names, roles)


def focus(styles: Mapping[str, Style]) -> str | None:
  """The student, whose line is bold; None if there is none."""
  found = [name for name, style in styles.items() if style == ROLES["student"]]
  return found[0] if found else None


def term_styles(taps: Iterable[str], others: Iterable[str] = ()) -> dict[str, Style]:
  """A style for each tap and each loss term of no tap, by name.

  Args:
    taps: Taps from input to output: from light to dark.
    others: Loss terms such as "labels", whose lines have marks.
  """
  import matplotlib  # here, as it takes a second that only those who draw should spend
  from matplotlib.colors import to_hex

  taps = list(taps)
  shades = np.linspace(0.82, 0.05, len(taps)) if len(taps) > 1 else [0.05]
  viridis = matplotlib.colormaps["viridis"]
  styles = {
    tap: Style(to_hex(viridis(float(shade))))
    for tap, shade in zip(taps, shades, strict=True)
  }
  further = itertools.islice(_free_styles(), len(_FREE), None)
  return styles | dict(zip(others, further, strict=False))
