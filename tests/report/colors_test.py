"""Colours of networks, taps and parts of time."""

import itertools

import numpy as np
import pytest

from flowkd_jax import report
from flowkd_jax.report import _colors

# Machado et al., "A physiologically-based model for simulation of color vision
# deficiency", 2009, severity 1; on linear RGB.
_SIGHT = {
  "usual": np.eye(3),
  "protan": [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  "deutan": [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
  ],
  "tritan": [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
  ],
}
_TO_XYZ = [
  [0.4124, 0.3576, 0.1805],
  [0.2126, 0.7152, 0.0722],
  [0.0193, 0.1192, 0.9505],
]


def _seen(color, sight):
  """CIELAB of a colour as somebody sees it."""
  values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  linear = np.where(
    values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
  )
  x, y, z = _TO_XYZ @ np.clip(_SIGHT[sight] @ linear, 0, 1) / [0.9505, 1, 1.089]
  x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
  return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _distance(one, other):
  """Least CIE 1976 distance of two colours over all kinds of sight."""
  return min(np.linalg.norm(_seen(one, s) - _seen(other, s)) for s in _SIGHT)


def test_styles_differ_to_color_blind_people():
  styles = [*_colors.ROLES.values(), *itertools.islice(_colors._free_styles(), 12)]
  assert len({*styles}) == len(styles)
  alike = [
    pair
    for pair in itertools.combinations(styles, 2)
    if pair[0].mark == pair[1].mark and _distance(pair[0].color, pair[1].color) < 15
  ]
  assert alike == []


def test_parts_of_time_differ_to_color_blind_people():
  parts = [*_colors.PARTS.values()]
  neighbours = itertools.pairwise(parts)
  assert min(_distance(*pair) for pair in neighbours) > 10
  assert not {*parts} & {style.color for style in _colors.ROLES.values()}


def test_a_role_has_its_color_whatever_else_is_drawn():
  names = ["mine", "student", "other", "teacher", *(f"n{i}" for i in range(9))]
  many, few = report.network_styles(names), report.network_styles(["student"])
  assert many["student"] == few["student"] == report.ROLES["student"]
  assert many["teacher"] == report.ROLES["teacher"]
  assert len({*many.values()}) == len(many)
  others = {many[name].color for name in names if name not in ("student", "teacher")}
  assert not others & {style.color for style in report.ROLES.values()}


def test_roles_may_be_given_and_only_one_network_has_each():
  roles = {"a": "student", "b": "student", "student": "control"}
  styles = report.network_styles(["a", "b", "student"], roles)
  assert styles["a"] == report.ROLES["student"]
  assert styles["b"] not in report.ROLES.values()
  assert styles["student"] == report.ROLES["control"]
  with pytest.raises(
    ValueError, match="roles: expected one of teacher, .* got 'pupil'"
  ):
    report.network_styles(["a"], {"a": "pupil"})


def test_networks_of_a_run_have_one_style_with_and_without_metrics(metrics, results):
  more = [*results, {"name": "mine"}, {"name": "its", "role": "control"}]
  entries = [{"stage": "early", "epoch": 0}, *metrics]
  both = _colors.styles_of_run(entries, more)
  without = _colors.styles_of_run([], more)
  assert {name: both[name] for name in without} == without
  assert both["its"] == report.ROLES["control"]
  assert "early" in both


def test_the_student_is_in_focus():
  assert _colors.focus(report.network_styles(["a", "student"])) == "student"
  assert _colors.focus(report.network_styles(["a"])) is None


def test_tap_colors_are_darker_towards_the_output():
  styles = _colors.term_styles("abcd", ["labels"])
  shades = [_seen(styles[tap].color, "usual")[0] for tap in "abcd"]
  assert shades == sorted(shades, reverse=True)
  assert len({*shades}) == 4
  assert styles["labels"].mark != "o"
  assert [*_colors.term_styles(["only"])] == ["only"]
