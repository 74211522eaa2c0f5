"""Roles of rows and arms, and pictures of sizes."""

import numpy as np
import pytest

from experiments.studies import catalogue
from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import study_sizes
from flowkd_jax import report


def _run(**networks):
  """A run of networks, by name: parameters, accuracy, teacher."""
  keys = ("parameters", "accuracy", "teacher")
  found = [
    {"name": name, **dict(zip(keys, values, strict=True))}
    for name, values in networks.items()
  ]
  return kept_runs.KeptRun({}, found, [])


def _points(figure):
  """Values of each series by its title."""
  titles = [text.get_text() for text in figure.legends[0].get_texts()]
  drawn = [container[0] for container in figure.axes[0].containers]
  values = [np.round(line.get_ydata(), 6).tolist() for line in drawn]
  return dict(zip(titles, values, strict=True))


def test_rows_and_the_teachers_that_they_learn_from_are_drawn(fake):
  study = fake._replace(compared="accuracy")
  teacher = (1000, 0.9, None)
  runs = {
    "first": {
      "1": _run(teacher=teacher, student=(10, 0.5, "teacher")),
      "3": _run(teacher=teacher, student=(10, 0.7, "teacher")),
    },
    "second": {"1": _run(teacher=teacher, student=(10, None, "teacher"))},
  }
  figure = study_sizes.size_picture(study, runs)
  expected = {"the first": [60], "teacher that the rows learn from": [90]}
  assert _points(figure) == expected
  assert figure.axes[0].get_ylabel() == "accuracy, %"
  colors = [container[0].get_color() for container in figure.axes[0].containers]
  assert colors == [report.ROLES[role].color for role in ("student", "teacher")]


def test_arms_of_several_sizes_are_one_series(fake):
  arms = [
    spec.Arm(f"{name}_{number}", f"student {number}: {title}")
    for number in (1, 2)
    for name, title in (("alone", "alone"), ("ours", "the method"))
  ]
  columns = (spec.Column("accuracy"),)
  table = spec.Comparison((*arms, spec.Arm("x", "control: x")), columns)
  study = fake._replace(comparison=table)
  run = _run(
    alone_1=(10, 0.1, None),
    alone_2=(90, 0.2, None),
    ours_1=(10, 0.3, None),
    ours_2=(90, 0.4, None),
  )
  figure = study_sizes.size_picture(study, {"first": {"1": run}})
  assert _points(figure) == {"alone": [10, 20], "the method": [30, 40]}
  assert figure.axes[0].get_title(loc="left") == "the first"


def test_a_grid_has_no_picture_of_sizes():
  study = catalogue.STUDIES["cifar100_pairs"]
  with pytest.raises(report.NothingToDrawError, match="got a grid"):
    study_sizes.size_picture(study, {})


def test_the_method_is_the_row_that_others_are_compared_with_if_it_learns(fake):
  learns, alone = {"1": {"student": {"teacher": "t"}}}, {"1": {"student": {}}}
  assert study_sizes.method_row(fake, {"first": learns, "second": learns}) == "first"
  assert study_sizes.method_row(fake, {"first": alone, "second": learns}) == "second"
  assert study_sizes.method_row(fake, {"first": alone, "second": alone}) is None


def test_arms_have_the_colors_of_their_roles():
  styles = study_sizes.arm_styles(catalogue.STUDIES["online_ensemble"])
  assert styles["student 2, 2/3: the method"] == report.ROLES["student"]
  assert styles["the method"] == report.ROLES["student"]
  assert styles["ensemble: shared base, labels only"] == report.ROLES["control"]
  styles = study_sizes.arm_styles(catalogue.STUDIES["federated"])
  assert styles["FedAvg"] == report.ROLES["student on labels"]
  assert styles["control: generator untrained"] == report.ROLES["control"]
  assert study_sizes.arm_styles(catalogue.STUDIES["digits"]) == {}


def test_a_row_has_one_style_in_all_pictures(fake):
  alone = study_sizes.row_styles(fake, method="first")
  beside = study_sizes.row_styles(fake, ["auxiliary", "more"], "first")
  assert beside["second"] == alone["second"]
  assert beside["first"] == report.ROLES["student"]
  assert beside["auxiliary"] == report.ROLES["auxiliary"]
