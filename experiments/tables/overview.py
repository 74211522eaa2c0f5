"""The first table of the results page: systems, their controls and their papers."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from experiments.studies import catalogue
from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import network_rows
from experiments.tables import paired_arms
from flowkd_jax import report

HEADINGS = ("system", "measured here, %", "reaches", "control", "gain", "published")


class System(NamedTuple):
  """Table row: a method, its control in the same launches, and published numbers.

  Attributes:
    title: Name of the method.
    section: Anchor of its section on the page.
    measured: Data and metric of the number.
    study: Study of the number.
    name: Row or arm of the method in the study.
    control: Row or arm of the control.
    control_title: Name of the control for readers.
    column: Heading of the number in the table of the study.
    published: Numbers of the paper or its authors' code.
  """

  title: str
  section: str
  measured: str
  study: str
  name: str
  control: str
  control_title: str
  column: str
  published: str


SYSTEMS = (
  System(
    "Information flow",
    "the-papers-study-on-cifar-10",
    "CIFAR-10, mAP by cosine, the paper's size",
    "cifar10",
    "full",
    "labels",
    "labels only",
    "mAP c",
    "53.06, labels only 39.00",
  ),
  System(
    "Information flow, own teacher",
    "the-chain-of-the-paper-on-one-gpu",
    "the same, no weights of the authors",
    "paper_chain",
    "student",
    "student_labels",
    "labels only",
    "mAP c",
    "53.06, labels only 39.00",
  ),
  System(
    "Similarity preserving",
    "similarity-preserving-distillation",
    "CIFAR-100 at 16 pixels, 10,000 images, accuracy",
    "similarity_preserving",
    "student",
    "student_unrelated",
    "similarities of other images",
    "CIFAR-100",
    "73.83, labels only 73.26 (CIFAR-100, RepDistiller, WRN-40-2 to WRN-16-2)",
  ),
  System(
    "Online ensemble",
    "online-ensemble-compression",
    "CIFAR-10 at 16 pixels, 4,000 images, accuracy of the thinnest student",
    "online_ensemble",
    "ensemble/student_3",
    "shared_base/student_3",
    "the same base, labels only",
    "accuracy",
    "91.03, alone 89.67 (CIFAR-10, ResNet-20, thinnest of five)",
  ),
  System(
    "HSAKD",
    "hierarchical-self-supervised-distillation",
    "CIFAR-10 at 16 pixels, 2,000 images, accuracy",
    "hierarchical_self_supervised",
    "student",
    "student_kd_rotations",
    "KD on four rotations",
    "accuracy",
    "77.20, labels only 73.57 (CIFAR-100, WRN-40-2 to WRN-16-2)",
  ),
  System(
    "FedGen",
    "fedgen",
    "MNIST, alpha 0.1, the paper's size, accuracy",
    "papers_fedgen_mnist",
    "fedgen",
    "fedavg",
    "FedAvg at its best rate",
    "alpha 0.1",
    "95.68, FedAvg 90.71 (MNIST, the authors, later run)",
  ),
  System(
    "KDDG, our filter",
    "domain-generalisation-with-a-gradient-filter-after-kddg",
    "rotated MNIST at 14 pixels, accuracy on the angle left out",
    "rotated_mnist",
    "kd_confident",
    "kd_random",
    "rows kept by chance",
    "mean",
    "the paper's tables were not available",
  ),
)


def table(read: Callable[[str], kept_runs.KeptRuns]) -> str:
  """The table in Markdown; systems whose study has no runs are "not run".

  Args:
    read: Returns the kept runs of a study by its name.
  """
  rows = [_row(system, read(system.study)) for system in SYSTEMS]
  return report.markdown_table(list(HEADINGS), rows, left=len(HEADINGS)).rstrip()


def _row(system: System, runs: kept_runs.KeptRuns) -> list[str]:
  study = catalogue.STUDIES[system.study]
  found = paired_arms.networks(study, runs)
  reached = _numbers(system, study, found, system.name)
  control = _numbers(system, study, found, system.control)
  link = f"[{system.title}](#{system.section})"
  if not any(value is not None for value in reached.values()):
    return [link, system.measured, "not run", "", "", system.published]
  return [
    link,
    system.measured,
    paired_arms.spread(reached.values(), "{:.2f}", 100),
    f"{paired_arms.spread(control.values(), '{:.2f}', 100)}, {system.control_title}",
    paired_arms.difference(reached, control, 100),
    system.published,
  ]


def _numbers(
  system: System, study: spec.Study, found: Mapping[str, Any], name: str
) -> dict[str, float | None]:
  """The number of a row or an arm, by seed."""
  if study.comparison is None:
    (run,) = [run for run in study.runs if run.name == name]
    return network_rows.numbers(run, system.column, found)
  columns = {column.heading: column for column in study.comparison.columns}
  return paired_arms.numbers(columns[system.column], name, found)
