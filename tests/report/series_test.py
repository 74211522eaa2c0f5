"""Numbers over epochs, picked out of metrics."""

import numpy as np

from flowkd_jax import report
from flowkd_jax.report import _series


def _legend(artist):
  return [text.get_text() for text in artist.get_texts()]


def test_taps_are_drawn_in_the_order_of_the_network(metrics, results):
  # The network's order is not that of the alphabet, in which a compiled training step
  # returns its metrics.
  renamed = {"block_1": "stem", "block_2": "middle", "block_3": "late", "dense": "end"}

  def rename(key):
    *prefix, tap = key.split("/")
    return "/".join([*prefix, renamed.get(tap, tap)])

  steps = "loss/", "weight/", "gradient/", "cka/"
  entries = []
  for entry in metrics:
    entry = {rename(key): value for key, value in entry.items()}
    compiled = {key for key in entry if key.startswith(steps)}
    rest = {key: value for key, value in entry.items() if key not in compiled}
    entries.append({**{key: entry[key] for key in sorted(compiled)}, **rest})
  figure = report.loss_picture(entries, results)
  assert _legend(figure.axes[1].get_legend()) == ["stem", "middle", "late", "end"]
  assert _legend(figure.axes[3].get_legend()) == ["stem to late", "end"]
  figure = report.diagnostics_picture(entries, results)
  assert _legend(figure.axes[1].get_legend()) == ["stem", "middle", "late", "end"]


LOG = [
  {"stage": "student", "epoch": 1, "loss": None, "qmi/cosine/late": 4.0},
  {"stage": "student", "epoch": -1, "qmi/cosine/stem": 1.0, "qmi/cosine/late": 2.0},
  {"stage": "student", "epoch": 0, "loss": 3.0, "loss/late": 1.0, "loss/stem": 2.0},
  {"stage": "auxiliary", "epoch": 0, "loss": 9.0},
]


def test_series_has_epochs_trained_in_order_and_gaps():
  x, y, band = _series.series(LOG, "student", "loss")
  assert band is None
  np.testing.assert_array_equal(x, [1, 2])
  np.testing.assert_array_equal(y, [3, np.nan])
  assert _series.last(_series.Series(x, y)) == 3
  nothing = _series.series(LOG, "teacher", "loss")
  assert nothing.x.shape == nothing.y.shape == (0,)
  assert np.isnan(_series.last(nothing))


def test_stages_with_are_those_that_have_a_key():
  assert _series.stages_with(LOG, "loss") == ["student", "auxiliary"]
  assert _series.stages_with(LOG, "qmi/") == ["student"]
  assert _series.stages_with(LOG, "cka/") == []


def test_teachers_of_results_replace_the_usual_ones():
  assert _series.teachers_of(LOG, []) == {"student": "auxiliary"}
  results = [{"name": "student", "teacher": None}, {"name": "b", "teacher": "student"}]
  assert _series.teachers_of(LOG, results) == {"b": "student"}


def test_network_titles_are_those_of_results_or_their_names():
  results = [{"name": "student", "title": "the student"}, {"name": "b", "title": ""}]
  log = [*LOG, {"stage": "student_labels", "epoch": 0}]
  assert _series.network_titles(log, results) == {
    "student": "the student",
    "auxiliary": "auxiliary",
    "student_labels": "student labels",
    "b": "b",
  }


def test_corresponding_taps_are_as_deep():
  found = [_series.corresponding(position, 3, 5) for position in range(3)]
  assert found == [0, 2, 4]
  assert _series.corresponding(0, 1, 5) == 4
  assert [_series.corresponding(position, 4, 1) for position in range(4)] == [0] * 4


def test_terms_are_taps_by_depth_in_their_network_and_others():
  log = [
    {"stage": "a", "epoch": 0, "qmi/cosine/x": 1, "qmi/cosine/y": 1, "loss/y": 1},
    {"stage": "b", "epoch": 0, "qmi/cosine/z": 1, "loss/labels": 1, "dead/z": 0},
    {"stage": "b", "epoch": 1, "cka/z": 1, "gradient/labels": 1, "dead/x": 1},
    {"stage": "a", "epoch": 1, "dead/x": 0},
  ]
  assert _series.terms(log) == (["x", "y", "z"], ["labels"])
  log = [{"stage": "a", "epoch": 0, "loss/y": 1, "loss/labels": 1}]
  assert _series.terms(log) == (["y", "labels"], [])
