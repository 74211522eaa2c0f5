"""The studies: which runs make up which table of the results page.

A run is a launcher and its flags; a study repeats every run with several seeds. Where
a flag depends on the machine it is a placeholder: `{data_dir}`, `{auxiliary_weights}`,
or `{workdir}`, the folder of the study.
"""

from typing import NamedTuple

PLACEHOLDERS = ("data_dir", "auxiliary_weights", "workdir")


class Run(NamedTuple):
  """One row of a table.

  Attributes:
    name: Its folder.
    title: What it is, for people.
    flags: What it is started with, besides `--workdir` and `--seed`.
    result: Which network of the run the row shows, by its name in `results.json`.
    module: The launcher.
    seeds: How many of the study's seeds it is run with; None for all.
  """

  name: str
  title: str
  flags: tuple[str, ...]
  result: str = "student"
  module: str = "experiments.information_flow"
  seeds: int | None = None


class Study(NamedTuple):
  """Runs that are compared with one another.

  Attributes:
    title: What it is about.
    runs: Its rows, in the order of the table.
    published: Rows of others' numbers, `(title, {column: percent})`, shown as they
      were published.
  """

  title: str
  runs: tuple[Run, ...]
  published: tuple[tuple[str, dict[str, float]], ...] = ()


_CIFAR10 = ("--dataset=cifar10", "--data_dir={data_dir}")
_FROM_AUTHORS = (*_CIFAR10, "--auxiliary_weights={auxiliary_weights}")


def _from_auxiliary(name, title, stage, *flags, seeds=None):
  """A student from the authors' auxiliary."""
  stages = f"--stages=auxiliary,{stage}"
  return Run(name, title, (*_FROM_AUTHORS, stages, *flags), stage, seeds=seeds)


def _full(name, title, *flags):
  """The full method from the authors' auxiliary, with something changed."""
  return _from_auxiliary(name, title, "student", *flags)


def _published(*values: float) -> dict[str, float]:
  columns = ("mAP e", "mAP c", "top-100 e", "top-100 c")
  return dict(zip(columns, values, strict=True))


STUDIES = {
  "cifar10": Study(
    "The paper's CIFAR-10 study: CNN1, 50 epochs, from the authors' auxiliary",
    (
      Run(
        "labels",
        "labels only",
        (*_CIFAR10, "--stages=student_labels"),
        "student_labels",
      ),
      _from_auxiliary("kd", "KD, T = 2", "student_kd"),
      _from_auxiliary("hint", "hint, last tap, learnt projection", "student_hint"),
      _from_auxiliary("pkt", "PKT, last tap", "student_pkt"),
      _from_auxiliary(
        "constant",
        "all taps, no schedule, authors' loss",
        "student",
        "--authors",
        "--initial_weight=1",
        "--weight_decay_per_epoch=1",
      ),
      _from_auxiliary("full", "full method, authors' loss", "student", "--authors"),
      _from_auxiliary("corrected", "full method, corrected loss", "student"),
      _from_auxiliary(
        "posterior", "recipe posterior, no labels", "student", "--recipe=posterior"
      ),
    ),
    published=(
      ("labels only, published", _published(35.30, 39.00, 55.87, 58.77)),
      ("full method, published", _published(49.20, 53.06, 61.54, 64.24)),
    ),
  ),
  "parts": Study(
    "What each part is worth: the full method with one thing changed",
    (
      _full("full", "full method, corrected loss"),
      _full("last_tap", "last tap only", "--initial_weight=0"),
      _full(
        "no_schedule",
        "no schedule: weights stay 1",
        "--initial_weight=1",
        "--weight_decay_per_epoch=1",
      ),
      _full("gamma_50", "gamma 0.5", "--weight_decay_per_epoch=0.5"),
      _full("gamma_90", "gamma 0.9", "--weight_decay_per_epoch=0.9"),
      _full("by_step", "schedule by step", "--schedule_by_step"),
      _full("cosine", "cosine kernel only", "--kernels=cosine"),
      _full("student_t", "Student-t kernel only", "--kernels=student_t"),
      _full("quadratic", "flow vectors (QMI, labels)", "--matching=quadratic"),
      _full("no_reset", "Adam keeps its moments", "--noreset_optimizer"),
    ),
  ),
}
