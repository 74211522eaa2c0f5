import numpy as np
import pytest

from flowkd_jax import report


def test_comparison_picture_draws_mean_and_range_of_seeds():
  seeds = [{1: 0.2, 2: 0.4, 3: 0.5}, {1: 0.4, 2: 0.8}]
  figure = report.comparison_picture(
    {"first": {"one": seeds, "other": seeds[:1]}, "second": {"other": seeds}},
    x="rounds",
  )
  titles = [axes.get_title(loc="left") for axes in figure.axes]
  assert titles == ["first", "second"]
  one, other = figure.axes[0].get_lines()
  np.testing.assert_allclose(one.get_ydata(), [30, 60])
  np.testing.assert_allclose(other.get_xdata(), [1, 2, 3])
  assert other.get_color() == figure.axes[1].get_lines()[0].get_color()
  band = figure.axes[0].collections[0].get_paths()[0].vertices
  # The range, as in all other pictures: a deviation may reach above 100 %.
  assert {band[:, 1].min(), band[:, 1].max()} == {20, 80}
  assert figure.axes[0].get_xlabel() == "rounds"
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]
  said = legend.get_title().get_text()
  assert "Band: least to greatest" in said
  assert "Line: ends with the shortest of its runs" in said


def test_comparison_picture_draws_the_method_bold():
  styles = report.network_styles(["one", "other"], {"other": "student"})
  seeds = [{1: 0.2, 2: 0.4}]
  panels = {"run": {"one": seeds, "other": seeds}}
  figure = report.comparison_picture(panels, styles=styles)
  one, other = figure.axes[0].get_lines()
  assert one.get_linewidth() < other.get_linewidth()
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["one", "other (bold)"]
  assert legend.get_title().get_text() == "Bold: the method."


def test_comparison_picture_without_curves_is_refused():
  with pytest.raises(report.NothingToDrawError, match="measure them during training"):
    report.comparison_picture({"first": {}})
