import numpy as np
import pytest

from flowkd_jax import report


def test_comparison_picture_draws_mean_and_deviation_of_seeds():
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
  deviation = np.std([20, 40], ddof=1)
  assert {30 - deviation, 30 + deviation} <= set(band[:, 1])
  assert figure.axes[0].get_xlabel() == "rounds"
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]


def test_comparison_picture_without_curves_is_refused():
  with pytest.raises(report.NothingToDrawError, match="measure them during training"):
    report.comparison_picture({"first": {}})
