import numpy as np
import pytest

from flowkd_jax import report


def _titles(figure):
  return [axes.get_title(loc="left") for axes in figure.axes]


def _lines(axes, *, dashed=False):
  """Drawn lines, or the dashed levels, with colour and values."""
  return {
    line.get_color(): np.asarray(line.get_ydata())
    for line in axes.get_lines()
    if line.is_dashed() == dashed
  }


def _legend(artist):
  return [text.get_text() for text in artist.get_texts()]


def test_loss_picture_has_losses_and_weights_of_every_matched_tap(metrics, results):
  figure = report.loss_picture(metrics, results)
  titles = ["auxiliary, from teacher", "student, information flow", "", ""]
  assert _titles(figure) == titles
  assert [len(axes.get_lines()) for axes in figure.axes] == [1, 4, 1, 2]
  weights = _legend(figure.axes[3].get_legend())
  assert weights == ["block_1 to block_3", "dense"]
  assert figure.axes[1].get_yscale() == "log"
  np.testing.assert_allclose(
    figure.axes[3].get_lines()[0].get_ydata(), 100 * 0.7 ** np.arange(5)
  )


def test_precision_recall_picture_has_a_panel_per_metric(results):
  figure = report.precision_recall_picture(results)
  assert _titles(figure) == ["Euclidean distance", "Cosine distance"]
  for axes in figure.axes:
    assert len(axes.get_lines()) == 5
    labels = _legend(axes.get_legend())
    assert labels[0].endswith("teacher, ResNet-18")
    assert labels == sorted(labels, reverse=True)
  first = _lines(figure.axes[0])["#404040"]
  expected = results[0]["retrieval"]["euclidean"]["precision"]
  np.testing.assert_allclose(first, 100 * np.array(expected))


def test_precision_recall_picture_leaves_out_what_was_not_measured(results):
  results[0]["retrieval"] = None
  for network in results[1:]:
    del network["retrieval"]["cosine"]
  (axes,) = report.precision_recall_picture(results).axes
  assert len(axes.get_lines()) == 4
  # A network that diverged: files have null for NaN.
  results[1]["retrieval"]["euclidean"]["mean_average_precision"] = None
  (axes,) = report.precision_recall_picture(results).axes
  assert len(axes.get_lines()) == 3


def test_training_picture_has_accuracy_and_loss(metrics, results):
  accuracy, loss = report.training_picture(metrics, results).axes
  assert set(_lines(accuracy)) == {"#404040", "#E69F00", "#56B4E9"}
  assert len(_lines(loss)) == 5
  assert max(_lines(accuracy)["#404040"]) > 80


@pytest.mark.parametrize(
  ("picture", "message"),
  [
    (report.flow_picture, "quadratic mutual information"),
    (report.loss_picture, "losses by tap"),
    (report.training_picture, "test_accuracy or loss"),
    (report.precision_recall_picture, "retrieval"),
  ],
)
def test_pictures_say_what_is_missing(picture, message):
  with pytest.raises(report.NothingToDrawError, match=message):
    picture([])
