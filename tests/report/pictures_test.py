import json
import logging
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

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
  assert _legend(figure.legends[0]) == ["student labels", "auxiliary labels"]
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
  assert _legend(figure.legends[0]) == [
    *names,
    "auxiliary at its end: goal of 6 networks",
  ]
  panel = figure.axes[0]
  assert len(_lines(panel)) == 6
  assert sum(line.is_dashed() for line in panel.get_lines()) == 1


def test_flow_picture_draws_the_network_in_focus_bold(metrics, results):
  for focus, colour in (("student", "#D55E00"), ("auxiliary", "#0072B2")):
    figure = report.flow_picture(metrics, results, focus=focus)
    lines = [line for line in figure.axes[0].get_lines() if not line.is_dashed()]
    boldest = max(lines, key=lambda line: line.get_linewidth())
    assert boldest.get_color() == colour
  figure = report.flow_picture(metrics, results, focus="teacher")
  assert _titles(figure)[:4] == ["stage_1", "stage_2", "stage_3", "stage_4"]
  with pytest.raises(ValueError, match="focus: expected a network .*, got 'pupil'"):
    report.flow_picture(metrics, results, focus="pupil")


def test_twelve_networks_have_colours_of_their_own(metrics):
  (first, *_) = [entry for entry in metrics if entry["stage"] == "student_labels"]
  many = [{**first, "stage": f"row {n}"} for n in range(12)]
  figure = report.flow_picture(many)
  assert len(_lines(figure.axes[0])) == 12


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


def test_training_picture_has_accuracy_and_loss(metrics, results):
  accuracy, loss = report.training_picture(metrics, results).axes
  assert set(_lines(accuracy)) == {"#404040", "#E69F00", "#56B4E9"}
  assert len(_lines(loss)) == 5
  assert max(_lines(accuracy)["#404040"]) > 80


def test_networks_have_one_colour_in_all_pictures(metrics, results):
  figures = [
    report.flow_picture(metrics, results),
    report.training_picture(metrics, results),
    report.precision_recall_picture(results),
  ]
  colours = [
    set(_lines(figure.axes[panel]))
    for figure, panel in zip(figures, (0, -1, -1), strict=True)
  ]
  assert colours[0] == colours[1] == colours[2]
  assert len(colours[0]) == 5


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


def test_pictures_survive_one_epoch_and_diverged_losses(tmp_path):
  entry = {"stage": "mine", "epoch": 0, "loss": math.nan, "qmi/cosine/dense": 0.0}
  entry |= {"loss/dense": math.nan, "weight/dense": 1, "test_accuracy": None}
  (tmp_path / "metrics.jsonl").write_text(json.dumps(entry))
  assert len(report.save_pictures(tmp_path)) == 3


@pytest.mark.slow
def test_save_pictures_writes_pngs(workdir):
  paths = report.save_pictures(workdir)
  names = ["training", "flow", "loss", "diagnostics", "precision_recall"]
  assert paths == [workdir / "pictures" / f"{name}.png" for name in names]
  for path in paths:
    pixels = np.array(Image.open(path).convert("L"))
    assert pixels.shape[1] == 1800
    assert pixels.shape[0] > 700
    assert 0.01 < (pixels < 230).mean() < 0.2


@pytest.mark.slow
def test_save_pictures_of_running_job_skips_what_is_not_there(
  tmp_path, metrics, caplog
):
  lines = [json.dumps(e) + "\n" for e in metrics if e["stage"] == "student_labels"]
  (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"stage": "aux')
  with caplog.at_level(logging.INFO):
    paths = report.save_pictures(tmp_path)
  assert [path.stem for path in paths] == ["training", "flow", "diagnostics"]
  assert "loss.png: metrics: expected losses by tap" in caplog.text
  assert "precision_recall.png: results: expected retrieval" in caplog.text


def test_save_pictures_of_evaluation_alone(workdir):
  (workdir / "metrics.jsonl").unlink()
  assert [path.stem for path in report.save_pictures(workdir)] == ["precision_recall"]


def test_save_pictures_rejects_other_folders(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
    report.save_pictures(tmp_path)
  assert not list(tmp_path.iterdir())


def test_pictures_show_themselves_in_notebooks_without_pyplot(results):
  png = report.precision_recall_picture(results)._repr_png_()
  assert struct.unpack(">I", png[16:20]) == (1200,)


def test_import_does_not_load_matplotlib():
  code = "import sys; from flowkd_jax import report; print('matplotlib' in sys.modules)"
  found = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert found.stdout.strip() == "False"


def test_layer_picture_shows_matrices_and_frames_the_map():
  matrices = {"CKA": np.eye(2, 3), "distance": np.ones((2, 3))}
  names = ["a", "b"], ["x", "y", "z"]
  figure = report.layer_picture(matrices, *names, {"a": "x", "b": "z"})
  first = figure.axes[0]
  assert [text.get_text() for text in first.get_xticklabels()] == names[1]
  assert [text.get_text() for text in first.texts] == ["1", "0", "0", "0", "1", "0"]
  corners = [patch.get_xy() for patch in first.patches]
  assert corners == [(-0.5, -0.5), (1.5, 0.5)]


def test_layer_picture_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match=r"CKA: expected shape \(1, 3\), got \(2, 2\)"):
    report.layer_picture({"CKA": np.eye(2)}, ["a"], ["x", "y", "z"])
  with pytest.raises(report.NothingToDrawError, match="matrices: expected at least"):
    report.layer_picture({}, ["a"], ["x"])


def test_retrieval_picture_frames_what_is_right_and_wrong():
  images = np.arange(2 * 3 * 16, dtype=np.uint8).reshape(2, 3, 4, 4, 1)
  labels = np.array([[0, 1, 1], [1, 1, 0]])
  figure = report.retrieval_picture(
    images[:, 0],
    labels[:, 0],
    images[:, 1:],
    labels[:, 1:],
    class_names=("cat", "dog"),
  )
  names = [axes.get_title() for axes in figure.axes]
  assert names == ["cat", "dog", "dog", "dog", "dog", "cat"]
  frames = [axes.spines["left"].get_edgecolor()[:3] for axes in figure.axes]
  assert frames[1] == frames[2] == frames[5]
  assert len({frames[0], frames[1], frames[4]}) == 3
  shown = [axes.get_images()[0].get_array() for axes in figure.axes]
  np.testing.assert_array_equal(shown[4], images[1, 1, ..., 0])


def test_retrieval_picture_names_no_class_without_a_label():
  images = np.zeros((1, 3, 4, 4, 1), np.uint8)
  labels = np.array([[-1, -1, 0]])
  figure = report.retrieval_picture(
    images[:, 0], labels[:, 0], images[:, 1:], labels[:, 1:], class_names=("cat",)
  )
  assert [axes.get_title() for axes in figure.axes] == ["no label", "no label", "cat"]
  frames = [axes.spines["left"].get_edgecolor() for axes in figure.axes]
  assert frames[1] == frames[2]  # neither is right
  with pytest.raises(ValueError, match="found_labels: expected classes from 0 to 0"):
    report.retrieval_picture(
      images[:, 0], labels[:, 0], images[:, 1:], labels[:, 1:] + 1, class_names=("cat",)
    )


def test_retrieval_picture_refuses_what_does_not_fit():
  images, labels = np.zeros((2, 3, 4, 4, 3), np.uint8), np.zeros((2, 3), int)
  with pytest.raises(ValueError, match=r"found_images: expected shape \(2, 1, 4"):
    report.retrieval_picture(
      images[:, 0], labels[:, 0], images, labels[:, :1], class_names="a"
    )
  with pytest.raises(report.NothingToDrawError, match="query_labels"):
    report.retrieval_picture(
      images[:0, 0], labels[:0, 0], images[:0], labels[:0], class_names="a"
    )


def test_diagnostics_picture_draws_what_was_recorded(metrics, results):
  figure = report.diagnostics_picture(metrics, results)
  assert _titles(figure)[:2] == ["auxiliary, from teacher", "student, information flow"]
  names = ("norm of the gradient", "linear CKA with the teacher", "dead units, %")
  assert [axes.get_ylabel() for axes in figure.axes[::2]] == list(names)
  student = [e for e in metrics if e["stage"] == "student" and e["epoch"] >= 0]
  assert _legend(figure.axes[1].get_legend()) == [
    "block_1",
    "block_2",
    "block_3",
    "dense",
  ]
  for axes, key, factor in zip(
    figure.axes[1::2],
    ("gradient/dense", "cka/dense", "dead/dense"),
    (1, 1, 100),
    strict=True,
  ):
    drawn = axes.get_lines()[-1].get_ydata()
    expected = [factor * entry[key] for entry in student]
    np.testing.assert_allclose(drawn[-len(expected) :], expected)


def test_diagnostics_picture_of_networks_on_labels_has_dead_units_only(metrics):
  metrics = [entry for entry in metrics if entry["stage"].endswith("_labels")]
  figure = report.diagnostics_picture(metrics)
  assert [axes.get_ylabel() for axes in figure.axes] == ["dead units, %", ""]
  with pytest.raises(report.NothingToDrawError, match="expected diagnostics"):
    report.diagnostics_picture([{"stage": "student", "epoch": 0}])
