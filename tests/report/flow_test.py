"""Pictures of information flow."""

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


def test_flow_picture_has_a_panel_per_tap_and_kernel(metrics, results):
  figure = report.flow_picture(metrics, results)
  assert _titles(figure) == ["block_1", "block_2", "block_3", "dense", *8 * [""]]
  assert all(len(_lines(axes)) == 5 for axes in figure.axes[:8])
  assert "cosine kernel" in figure.axes[0].get_ylabel()
  assert "Student-t kernel" in figure.axes[4].get_ylabel()
  assert figure.axes[0].get_title(loc="right") == "teacher: stage_1"


def test_flow_picture_shows_how_alike_taps_are_to_those_they_learn_from(
  metrics, results
):
  figure = report.flow_picture(metrics, results)
  last_row = figure.axes[8:]
  assert last_row[0].get_ylabel() == "linear CKA with the teacher"
  student, auxiliary = "#D55E00", "#0072B2"  # who learns by all taps, by the last
  assert [set(_lines(axes)) for axes in last_row] == [
    *3 * [{student}],
    {student, auxiliary},
  ]
  assert not any(_lines(axes, dashed=True) for axes in last_row)
  expected = [
    e["cka/block_3"] for e in metrics if e["stage"] == "student" and e["epoch"] >= 0
  ]
  np.testing.assert_allclose(_lines(last_row[2])[student], expected)
  without = [{k: v for k, v in e.items() if k[:4] != "cka/"} for e in metrics]
  assert len(report.flow_picture(without, results).axes) == 8


def test_flow_picture_says_what_bold_and_dashes_mean(metrics, results):
  figure = report.flow_picture(metrics, results)
  said = figure.legends[0].get_title().get_text()
  assert "Bold: the network whose taps are the columns." in said
  assert "Dashed: a teacher after its training" in said
  assert "Band" not in said


def test_flow_picture_draws_the_recorded_values(metrics, results):
  figure = report.flow_picture(metrics, results)
  expected = [
    1000 * entry["qmi/cosine/block_2"]
    for entry in metrics
    if entry["stage"] == "student"
  ]
  np.testing.assert_allclose(_lines(figure.axes[1])["#D55E00"], expected)
  assert figure.axes[0].get_ylabel().startswith("1,000 × QMI")
  (line,) = [x for x in figure.axes[1].get_lines() if x.get_color() == "#D55E00"]
  assert list(line.get_xdata()) == [0, 1, 2, 3, 4, 5]


def test_flow_picture_dashes_the_goal_where_taps_are_matched(metrics, results):
  figure = report.flow_picture(metrics, results)
  levels = [_lines(axes, dashed=True) for axes in figure.axes[:4]]
  auxiliary, teacher = "#0072B2", "#404040"
  assert [set(level) for level in levels] == [{auxiliary}] * 3 + [{auxiliary, teacher}]
  last = [entry for entry in metrics if entry["stage"] == "auxiliary"][-1]
  np.testing.assert_allclose(levels[0][auxiliary], 1000 * last["qmi/cosine/block_1"])
  assert "auxiliary at its end: goal of student" in _legend(figure.legends[0])


def test_flow_picture_without_results_assumes_the_usual_teachers(metrics):
  figure = report.flow_picture(metrics)
  assert "teacher at its end: goal of auxiliary" in _legend(figure.legends[0])
  metrics = [entry for entry in metrics if entry["stage"] != "auxiliary"]
  figure = report.flow_picture(metrics)
  assert "teacher at its end: goal of student" in _legend(figure.legends[0])


def test_flow_picture_of_baselines_has_no_goals(metrics):
  metrics = [entry for entry in metrics if entry["stage"].endswith("_labels")]
  figure = report.flow_picture(metrics)
  assert _legend(figure.legends[0]) == ["student labels", "auxiliary labels (bold)"]
  assert not any(_lines(axes, dashed=True) for axes in figure.axes)


def test_flow_picture_shows_a_network_measured_once_as_a_goal_only(metrics, results):
  *_, once = [entry for entry in metrics if entry["stage"] == "auxiliary"]
  students = [entry for entry in metrics if entry["stage"].startswith("student")]
  others = [
    {**entry, "stage": f"{entry['stage']} {n}"} for n in (1, 2) for entry in students
  ]
  names = dict.fromkeys(entry["stage"] for entry in [*students, *others])
  taught = [{"name": name, "title": name, "teacher": "auxiliary"} for name in names]
  figure = report.flow_picture([once, *students, *others], taught)
  *_, bold = names
  assert _legend(figure.legends[0]) == [
    *[f"{name} (bold)" if name == bold else name for name in names],
    "auxiliary at its end: goal of 6 networks",
  ]
  panel = figure.axes[0]
  assert len(_lines(panel)) == 6
  assert sum(line.is_dashed() for line in panel.get_lines()) == 1


@pytest.mark.slow
def test_flow_picture_draws_the_network_in_focus_bold(metrics, results):
  for focus, color in (("student", "#D55E00"), ("auxiliary", "#0072B2")):
    figure = report.flow_picture(metrics, results, focus=focus)
    lines = [line for line in figure.axes[0].get_lines() if not line.is_dashed()]
    boldest = max(lines, key=lambda line: line.get_linewidth())
    assert boldest.get_color() == color
  figure = report.flow_picture(metrics, results, focus="teacher")
  # Names that do not fit beside the title stand below it.
  titles = [title.strip() for title in _titles(figure)[:4]]
  assert titles == ["stage_1", "stage_2", "stage_3", "stage_4"]
  with pytest.raises(ValueError, match="focus: expected a network .*, got 'pupil'"):
    report.flow_picture(metrics, results, focus="pupil")
