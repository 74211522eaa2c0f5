"""Domain generalization by distillation with filtered gradients, after KDDG.

The job follows Wang, Li, Chau, Kot, "Embracing the Dark Knowledge: Domain
Generalization Using Regularized Knowledge Distillation", ACM MM 2021,
https://arxiv.org/abs/2107.02629. All networks are trained on several source domains
together and tested on the domain --held_out. The gradient filters are our own, as the
paper's definition was not available to us; see `methods.filtered_distillation`. All
students have the same initial weights. Stages:

  teacher       a larger network, trained on labels
  erm           student, trained on labels only (empirical risk minimisation)
  kd            student, trained on labels and the teacher's softened logits
  kd_saturated  kd, but the gradient passes only where the student is less sure of the
                label than the teacher
  kd_confident  kd, but the gradient passes unless the student is right and confident
  kd_small      kd, but only entries of the gradient that are not small pass
  kd_random     control: the gradient passes for random rows, as many in every epoch as
                passed the filter --matched_filter

    flowkd train domain_generalization --workdir=W
    flowkd train domain_generalization --dataset=pacs --held_out=sketch ...

Data sets are mnist_rotated and digits_rotated, whose domains are angles with different
images, or any data set of tensorflow-datasets whose splits are domains, such as pacs.
Training uses 90 % of the images of each source domain. Validation accuracy, to tune
settings, is measured on the other 10 %. Test accuracy is measured on the held-out
domain. The metrics `trajectory/...` say how far and how straight each student moved.

For data sets in colour, the augmentation of DomainBed is usual:
--crop_padding=0 --min_crop_area=0.7 --color_jitter=0.3 --grayscale=0.1.

To resume an interrupted run, repeat the command.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import report
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import limits
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import optimizers
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

__all__ = [
  "FILTERS",
  "PRESETS",
  "ROTATED",
  "STAGES",
  "Config",
  "configure",
  "run",
  "select",
  "summarize",
]

FILTERS = ("saturated", "confident", "small")
STAGES = ("teacher", "erm", "kd", *(f"kd_{name}" for name in FILTERS), "kd_random")
ROTATED = {"mnist_rotated": "mnist", "digits_rotated": "digits"}
_SPLITS = ("train_split", "validation_split", "test_split")


@dataclasses.dataclass(frozen=True)
class Config(
  settings.AdamSettings, settings.TeacherSettings, settings.MicroBatchSettings
):
  """Settings. Data set, networks and epochs are sized for two cores."""

  dataset: str = fields.setting(
    "digits_rotated",
    f"Data set: {', '.join(ROTATED)}, or a data set of tensorflow-datasets whose "
    "splits are domains, such as pacs.",
  )
  held_out: str = fields.setting(
    "60", "Domain to test on: one of the angles in --rotations, or a split."
  )
  rotations: tuple[str, ...] = fields.setting(
    ("0", "15", "30", "45", "60"), "Domains of a rotated data set, angles in degrees."
  )
  domain_images: int = fields.setting(
    200,
    "Number of training images of each domain of a rotated data set, including "
    "validation images.",
    least=10,
  )
  train_split: str = fields.setting(
    "", "Images to train on. Without the flag: 90 % of every domain except --held_out."
  )
  validation_split: str | None = fields.setting(
    None,
    "Images on which accuracy is measured to tune settings. Without the flag: 10 % of "
    "every domain except --held_out.",
  )
  test_split: str = fields.setting(
    "",
    "Images on which final accuracy is measured. Without the flag: the domain"
    " --held_out.",
  )
  stages: tuple[str, ...] = fields.setting(
    STAGES, "Stages to run, in this order.", choices=STAGES
  )
  teacher_network: str = fields.setting("cnn1:32", f"Teacher: {networks.DESCRIPTION}.")
  student_network: str = fields.setting("cnn1:8", f"Student: {networks.DESCRIPTION}.")
  teacher_epochs: str = fields.setting(
    "30@1e-3",
    "Epochs and learning rates of Adam, phase after phase, in the stage "
    "teacher: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=("teacher",),
  )
  student_epochs: str = fields.setting(
    "30@1e-3",
    "Epochs and learning rates of Adam, phase after phase, in every stage of "
    "a student: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=STAGES[1:],
  )
  min_crop_area: float = fields.setting(
    1.0,
    "Smallest share of the area of a random window of a training image, which is "
    "resized to the size of the image; 1 for the whole image. 0.7 is usual.",
    above=0,
    most=1,
  )
  color_jitter: float = fields.setting(
    0.0,
    "Strength of random changes of brightness, contrast, saturation and hue of "
    "training images; 0 for none. 0.3 is usual.",
    least=0,
    most=0.5,
  )
  grayscale: float = fields.setting(
    0.0,
    "Probability with which a training image is made grey. 0.1 is usual.",
    least=0,
    most=1,
  )
  temperature: float = fields.setting(
    5.0, "Temperature of the softened logits.", above=0, stages=STAGES[2:]
  )
  label_weight: float = fields.setting(
    0.5,
    "Weight of the cross-entropy with the labels. The loss on softened logits has the "
    "weight 1 - label_weight.",
    least=0,
    most=1,
    stages=STAGES[2:],
  )
  confidence: float = fields.setting(
    0.9,
    "Probability of the right class from which the stage kd_confident blocks the "
    "gradient.",
    least=0,
    most=1,
    stages=("kd_confident",),
  )
  smallest: float = fields.setting(
    0.01,
    "Smallest absolute value of gradient entries that pass in the stage kd_small.",
    above=0,
    stages=("kd_small",),
  )
  matched_filter: str = fields.setting(
    "saturated",
    "Filter whose share of passed gradients the stage kd_random matches.",
    choices=FILTERS,
    stages=("kd_random",),
  )

  @property
  def augmentation(self) -> data.Augmentation:
    """Random changes of training images, colours included."""
    return dataclasses.replace(
      super().augmentation,
      min_area=self.min_crop_area,
      color_jitter=self.color_jitter,
      grayscale=self.grayscale,
    )


PRESETS: dict[str, dict[str, Any]] = {
  "digits_rotated": {
    "teacher_network": "digits_cnn:16",
    "student_network": "digits_cnn:4",
    "batch_size": 64,
    "teacher_epochs": "30@3e-3",
    "student_epochs": "30@3e-3",
    "flip": False,
    "crop_padding": 0,
  },
  "mnist_rotated": {"domain_images": 2000, "flip": False, "crop_padding": 0},
  "pacs": {"held_out": "photo"},
}


def configure(**given: Any) -> Config:
  """Make a configuration from the data set's preset and the given settings.

  The result names a data set that can be opened, and its splits for training,
  validation and test.

  Raises:
    ValueError: If a setting is wrong. The message names the setting, the expected
      values and the value given.
    FileNotFoundError: If the data set is not prepared.
  """
  preset = PRESETS.get(given.get("dataset", Config.dataset), {})
  config = fields.configured(Config, preset, given)
  settings.check_settings(config, ("teacher_network", "student_network"))
  for name in ("teacher_epochs", "student_epochs"):
    optimizers.phases(getattr(config, name), f"--{name}")
  for name in ("rotations", "domain_images"):
    if name in given and config.dataset not in ROTATED:
      raise ValueError(
        f"--{name}: expected with a rotated set ({', '.join(ROTATED)}), got it with "
        f"--dataset={config.dataset}, whose domains are its splits"
      )
  if config.dataset in ROTATED:
    _check_rotations(config)
  return _with_splits(config)


def _check_rotations(config):
  """Raise ValueError unless the domains are different angles."""
  # Splits of `data` allow neither exponents nor spaces in angles.
  plain = all(re.fullmatch(r"-?\d{1,3}(\.\d+)?", text) for text in config.rotations)
  if not plain or len({*map(float, config.rotations)}) < len(config.rotations):
    raise ValueError(
      "--rotations: expected different angles in degrees, such as 0,15,30, got "
      f"{','.join(config.rotations)}"
    )


def _with_splits(config):
  """Set data set and splits of the domains."""
  rotated = config.dataset in ROTATED
  names = config.rotations
  if not rotated:
    try:
      names = data.split_names(config.dataset, data_dir=config.data_dir)
    except ValueError as error:
      text = str(error).removeprefix("name: ")
      raise ValueError(f"--dataset: {text}") from error
  if len(names) < 2:
    flag = "rotations" if rotated else "dataset"
    raise ValueError(
      f"--{flag}: expected two domains or more, got {', '.join(names) or 'none'}"
    )
  limits.check_choice("--held_out", config.held_out, names)
  if rotated:
    splits = _angles(names, config.held_out, config.domain_images)
  else:
    splits = _parts(names, config.held_out)
  chosen = {
    name: getattr(config, name) or split
    for name, split in zip(_SPLITS, splits, strict=True)
  }
  dataset = ROTATED.get(config.dataset, config.dataset)
  return dataclasses.replace(config, dataset=dataset, **chosen)


def _angles(angles, held_out, images):
  """Splits for training, validation and test; every angle has its own images."""
  train, validation = [], []
  for number, angle in enumerate(angles):
    first, last = number * images, (number + 1) * images
    middle = first + images * 9 // 10
    if angle != held_out:
      train.append(f"train[{first}:{middle}]@{angle}")
      validation.append(f"train[{middle}:{last}]@{angle}")
  return "+".join(train), "+".join(validation), f"test@{held_out}"


def _parts(names, held_out):
  """Splits for training, validation and test, if domains are splits."""
  sources = [name for name in names if name != held_out]
  train, validation = (
    "+".join(f"{name}{part}" for name in sources) for part in ("[:90%]", "[90%:]")
  )
  return train, validation, held_out


def select(
  config: Config, runner: stages.StageRunner
) -> Sequence[stages.Stage | stages.Imported]:
  """Stages that the job runs with these settings, in order."""
  arms = _Arms(config, runner)
  return [_STAGES[name](arms) for name in config.stages]


def run(config: Config) -> None:
  """Run the job; all its files are in `config.workdir`."""
  job_run.run_stages(config, select, STAGES)


def summarize(metrics: report.MetricLog) -> dict[str, float]:
  """Trajectory metrics of the last epoch, and the mean share of passed gradients."""
  trained = [entry for entry in metrics if entry["epoch"] >= 0]
  last = {
    name.removeprefix("trajectory/"): value
    for name, value in trained[-1].items()
    if name.startswith("trajectory/")
  }
  kept = [entry["kept"] for entry in trained if "kept" in entry]
  return {**last, **({"kept": sum(kept) / len(kept)} if kept else {})}


class _Arms:
  """Stages of one configuration, by name."""

  def __init__(self, config: Config, runner: stages.StageRunner):
    self.config, self.runner = config, runner
    self.training = runner.datasets.training
    self.teacher_model, self.student_model = (
      settings.network(config, name, self.training.num_classes)
      for name in (config.teacher_network, config.student_network)
    )

  def teacher(self) -> stages.Stage:
    return self._on_labels("teacher", "teacher", self.teacher_model, "teacher")

  def erm(self) -> stages.Stage:
    return self._on_labels("erm", "ERM", self.student_model, "student")

  def kd(self) -> stages.Stage:
    return self._distilled("kd", "KD", "none")

  def filtered(self, kind: str) -> stages.Stage:
    return self._distilled(f"kd_{kind}", f"KD, {kind} filter", kind)

  def _on_labels(self, name, title, model, role):
    def make():
      return methods.supervised(model, self._adam(role), **self.config.method_options)

    return self._stage(name, title, make, role=role)

  def _distilled(self, name, title, kind):
    config = self.config
    thresholds = {"confident": config.confidence, "small": config.smallest}

    def make():
      keep_rate = self._matched_rate() if kind == "random" else 1.0
      teacher = self.runner.network("teacher", self.teacher_model)
      return methods.filtered_distillation(
        self.student_model,
        settings.applied_teacher(config, teacher),
        self._adam("student"),
        gradient_filter=kind,
        threshold=thresholds.get(kind),
        keep_rate=keep_rate,
        temperature=config.temperature,
        label_weight=config.label_weight,
        **config.method_options,
      )

    return self._stage(name, title, make, teacher="teacher")

  def _matched_rate(self):
    """Share of gradients that passed the matched filter, as a schedule by epoch."""
    name = f"kd_{self.config.matched_filter}"
    if self.runner.is_expected(name):
      return lambda step: jnp.float32(1)
    if not self.runner.is_done(name):
      raise ValueError(
        f"stage kd_random passes as many gradients as {name}, which has not been run "
        f"in {self.runner.workdir}: add {name} to --stages, before kd_random"
      )
    entries = self.runner.metrics(name)
    rates = jnp.array([entry["kept"] for entry in entries if entry["epoch"] >= 0])
    steps = self.training.steps_per_epoch
    return lambda step: rates[step // steps]

  def _stage(self, name, title, make, *, role="student", teacher=None):
    epochs = getattr(self.config, f"{role}_epochs")
    return stages.Stage(
      name,
      title,
      lambda: methods.with_trajectory(make()),
      sum(number for number, _ in optimizers.phases(epochs, role)),
      teacher=teacher,
      init_name=role,
      summarize=summarize,
    )

  def _adam(self, role):
    return optimizers.adam(
      getattr(self.config, f"{role}_epochs"),
      steps_per_epoch=self.training.steps_per_epoch,
      decay=self.config.learning_rate_decay,
      beta2=self.config.adam_beta2,
    )


# Stages by name, in the order of the table.
_STAGES: dict[str, Callable[[_Arms], stages.Stage]] = {
  "teacher": _Arms.teacher,
  "erm": _Arms.erm,
  "kd": _Arms.kd,
  **{
    f"kd_{kind}": functools.partial(_Arms.filtered, kind=kind)
    for kind in (*FILTERS, "random")
  },
}
