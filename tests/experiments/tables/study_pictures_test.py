"""Pictures of studies."""

import numpy as np
import pytest
from PIL import Image

from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import study_pictures
from flowkd_jax import report


def _flow(teacher_level, teacher="auxiliary"):
  """A run of one tap whose student learned from a network of that information."""
  entry = {"qmi/cosine/tap": teacher_level, "epoch": -1, "stage": teacher}
  entries = [entry, *({**entry, "stage": "student", "epoch": n} for n in (0, 1))]
  student = {"name": "student", "teacher": teacher}
  return {"1": kept_runs.KeptRun({}, [student], entries)}


def _legend(figure):
  return [text.get_text() for text in figure.legends[0].get_texts()]


def test_picture_of_rows_shows_a_shared_teacher_once(fake):
  # The levels differ by the rounding of another launch.
  runs = {"first": _flow(2.0), "second": _flow(2.0001)}
  figure = study_pictures.flow_picture(fake, runs)
  goal = "auxiliary at its end: goal of the first and the second"
  assert _legend(figure) == ["the first (bold)", "the second", goal]
  figure = study_pictures.flow_picture(fake._replace(pictured=("second",)), runs)
  goal = "auxiliary at its end: goal of the second"
  assert _legend(figure) == ["the second", goal]


def test_picture_of_rows_tells_teachers_of_one_name_apart(fake):
  runs = {"first": _flow(2.0, "teacher"), "second": _flow(3.0), "third": _flow(4.0)}
  three = fake._replace(runs=(*fake.runs, spec.Run("third", "the third", ())))
  assert _legend(study_pictures.flow_picture(three, runs)) == [
    "the first (bold)",
    "the second",
    "the third",
    "teacher at its end: goal of the first",
    "auxiliary at its end: goal of the second",
    "auxiliary at its end: goal of the third",
  ]


def test_picture_of_rows_shows_the_method_bold_and_not_a_control(fake):
  control = _flow(2.0)
  control["1"].networks[0]["teacher"] = None
  figure = study_pictures.flow_picture(fake, {"first": control, "second": _flow(2.0)})
  assert "the second (bold)" in _legend(figure)


def _colors(figure):
  """Colour of each line of the first panel."""
  return [line.get_color() for line in figure.axes[0].get_lines()]


def test_the_method_and_its_control_have_the_colors_of_their_roles(fake):
  control = spec.Run("control", "labels", result="student_labels")
  study = fake._replace(runs=(control, *fake.runs))
  runs = {"first": _flow(2.0), "second": _flow(2.0)}
  (kept,) = _flow(1.0).values()
  entries = [
    {**entry, "stage": "student_labels"}
    for entry in kept.metrics
    if entry["stage"] == "student"
  ]
  network = {"name": "student_labels", "teacher": None}
  runs["control"] = {"1": kept_runs.KeptRun({}, [network], entries)}
  labels, first, _, goal = _colors(study_pictures.flow_picture(study, runs))
  assert labels == report.ROLES["student on labels"].color
  assert first == report.ROLES["student"].color
  assert goal == report.ROLES["auxiliary"].color
  one_less = fake._replace(runs=study.runs, pictured=("first", "second"))
  assert _colors(study_pictures.flow_picture(one_less, runs))[0] == first


def test_a_teacher_that_is_a_row_has_its_color_and_title(fake):
  title = "auxiliary of width 8, 5 epochs"
  row = spec.Run("wide", title, result="auxiliary", of="first")
  study = fake._replace(runs=(row, *fake.runs), pictured=("first",))
  figure = study_pictures.flow_picture(study, {"first": _flow(2.0)})
  goal = "auxiliary of width 8 at its end: goal of the first"
  assert _legend(figure) == ["the first", goal]


def test_lines_are_means_over_seeds_with_their_range(fake):
  runs = {"first": {**_flow(1.0), "2": _flow(3.0)["1"]}}
  figure = study_pictures.flow_picture(fake, runs)
  line, goal = figure.axes[0].get_lines()
  np.testing.assert_allclose(line.get_ydata(), [2, 2])
  np.testing.assert_allclose(goal.get_ydata(), [2, 2])
  (band,) = figure.axes[0].collections
  heights = band.get_paths()[0].vertices[:, 1]
  assert {heights.min(), heights.max()} == {1, 3}
  assert "Band: least to greatest" in figure.legends[0].get_title().get_text()


def _timed(steps):
  network = {"name": "student", "times": {"steps": steps, "compiling": 3.0}}
  return kept_runs.KeptRun({}, [network], [])


def test_times_are_means_over_seeds(fake):
  old = kept_runs.KeptRun({}, [{"name": "student"}], [])
  runs = {"first": {"1": _timed(10.0), "2": _timed(20.0)}, "second": {"1": old}}
  (axes,) = study_pictures.time_picture(fake, runs).axes
  assert [text.get_text() for text in axes.get_yticklabels()] == ["the first"]
  assert [part[0].get_width() for part in axes.containers] == [15, 3]
  assert axes.get_title(loc="left") == "mean over seeds"
  table = spec.Comparison((spec.Arm("student", "it"),), (spec.Column("a"),))
  del runs["second"]
  (axes,) = study_pictures.time_picture(fake._replace(comparison=table), runs).axes
  assert [text.get_text() for text in axes.get_yticklabels()] == ["it"]


@pytest.mark.slow
def test_pictures_that_there_are_numbers_for_are_saved_with_their_colors(
  fake, tmp_path
):
  runs = {"first": _flow(2.0)}
  assert study_pictures.save(fake, runs, tmp_path) == ["flow.png"]
  runs = {"first": {"1": _timed(10.0)}}
  assert study_pictures.save(fake, runs, tmp_path) == ["times.png"]
  assert set(study_pictures.FILES) >= {path.name for path in tmp_path.glob("*.png")}
  # Few colours make a small file, and each line keeps its own.
  pixels = np.array(Image.open(tmp_path / "flow.png").convert("RGB")).reshape(-1, 3)
  for role in ("student", "auxiliary"):
    color = report.ROLES[role].color
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.abs(pixels.astype(int) - wanted).max(1).min() <= 6
