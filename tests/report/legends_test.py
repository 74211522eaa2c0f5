"""Legends of pictures."""

import pytest

from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends

_PLAIN, _MARKED = _colors.Style("#123456"), _colors.Style("#123456", "s")


def _legend(*entries, meaning=_legends.Meaning()):  # noqa: B008 (it cannot be changed)
  figure, _ = _canvas.new_figure(1, 1, title="")
  _legends.below(figure, entries, meaning)
  (legend,) = figure.legends
  return legend


def test_meaning_has_a_sentence_for_what_there_is():
  assert _legends.Meaning().text == ""
  meaning = _legends.Meaning(bold="the student", band="the range")
  assert meaning.text == "Bold: the student. Band: the range."
  legend = _legend(_legends.Entry("a", _PLAIN), meaning=meaning)
  assert legend.get_title().get_text() == meaning.text


@pytest.mark.parametrize(
  ("entry", "line", "mark"),
  [
    (_legends.Entry("plain", _PLAIN), "-", "None"),
    (_legends.Entry("dashed", _PLAIN, dashed=True), "--", "None"),
    (_legends.Entry("marked", _MARKED), "-", "s"),
    (_legends.Entry("points", _PLAIN, line=False), "None", "o"),
  ],
)
def test_handles_look_like_what_is_drawn(entry, line, mark):
  (handle,) = _legend(entry).legend_handles
  assert (handle.get_linestyle(), handle.get_marker()) == (line, mark)
  assert handle.get_color() == "#123456"


def test_areas_are_filled():
  (handle,) = _legend(_legends.Entry("part", _PLAIN, area=True)).legend_handles
  assert handle.get_facecolor()[:3] == pytest.approx(
    (0x12 / 255, 0x34 / 255, 0x56 / 255)
  )
  assert handle.get_label() == "part"


def test_bands_are_said_where_there_are_some():
  figure, grid = _canvas.new_figure(1, 1, title="")
  _legends.bands(figure)
  assert figure.legends == []
  grid[0, 0].fill_between([0, 1], [0, 1], [1, 2])
  _legends.bands(figure)
  (legend,) = figure.legends
  assert legend.get_title().get_text().startswith("Band: least to greatest")


def test_columns_fit_as_they_are_filled():
  # Of four entries in three columns the first has two.
  label = "a label that takes more than a quarter of the width"
  legend = _legend(*(_legends.Entry(f"{label} {n}", _PLAIN) for n in range(4)))
  assert legend._ncols == 2
