"""Pictures of quality against size."""

import numpy as np
import pytest

from flowkd_jax import report
from flowkd_jax.report import _sizes

_NETWORKS = (
  report.Sized("teacher", 10_000, [90.0]),
  report.Sized("one", 1000, [60.0, 62.0]),
  report.Sized("other", 1000, [70.0, np.nan]),
  report.Sized("one", 100, [50.0, 50.0]),
)


def test_size_picture_draws_means_with_bars():
  figure = report.size_picture({"data": _NETWORKS}, measure="accuracy, %")
  (axes,) = figure.axes
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("parameters", "accuracy, %")
  assert axes.get_xscale() == "log"
  (legend,) = figure.legends
  assert [t.get_text() for t in legend.get_texts()] == ["teacher", "one", "other"]
  teacher, one, other = (container[0] for container in axes.containers)
  np.testing.assert_allclose(one.get_ydata(), [50, 61])  # from small to large
  np.testing.assert_allclose(other.get_ydata(), [70])
  assert teacher.get_color() == report.ROLES["teacher"].color
  # Side by side, as they are of one size, and in order.
  assert 900 < one.get_xdata()[1] < 1000 < other.get_xdata()[0] < 1100
  bars = axes.containers[1].lines[2][0].get_segments()
  deviation = np.std([60, 62], ddof=1)
  np.testing.assert_allclose(bars[1][:, 1], [61 - deviation, 61 + deviation])
  assert "one standard deviation" in legend.get_title().get_text()
  ticks = [text.get_text() for text in axes.get_xticklabels()]
  assert ticks == ["100", "1 k", "10 k"]


def test_size_picture_needs_two_sizes():
  same = [report.Sized("a", 10, [1.0]), report.Sized("b", 10, [2.0])]
  for panels in ({}, {"": same}, {"": [*same, report.Sized("c", 20, [np.nan])]}):
    with pytest.raises(report.NothingToDrawError, match="at least two sizes"):
      report.size_picture(panels, measure="accuracy, %")


def test_sizes_of_a_run_are_by_the_measure_that_most_networks_have(results):
  networks, measure = _sizes.sizes_of_run(results)
  assert measure == "mAP by cosine, %"
  assert [one.size for one in networks] == [r["parameters"] for r in results]
  assert networks[0].values == [pytest.approx(90)]
  for network in results:
    network["retrieval"] = None
  networks, measure = _sizes.sizes_of_run(results)
  assert measure == "accuracy, %"
  assert len(networks) == 3  # Transfers train no classifier.
