"""Similarity-preserving distillation, with its baselines and a control.

Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
https://arxiv.org/abs/1907.09682. There are five stages. All students have the same
initial weights:

  teacher            a large network, trained on labels
  student_labels     student, trained on labels only
  student_kd         student, trained on labels and the teacher's softened logits
  student            student, trained on labels and the similarities of teacher taps
  student_unrelated  control: student, trained on the similarities of other images

    flowkd train similarity_preserving --dataset=digits --workdir=W
    flowkd train similarity_preserving --dataset=cifar10 --data_dir=D ...

To resume an interrupted run, repeat the command.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import layer_matching
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import optimizers
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

__all__ = [
  "PRESETS",
  "STAGES",
  "Config",
  "configure",
  "run",
  "select",
]

STAGES = ("teacher", "student_labels", "student_kd", "student", "student_unrelated")
_PAPER_WEIGHT, _PAPER_BATCH = 3000.0, 128
_SGD_SETTINGS = ("momentum", "nesterov", "weight_decay", "warmup_epochs")


@dataclasses.dataclass(frozen=True)
class Config(
  settings.AdamSettings,
  settings.SgdSettings,
  settings.TeacherSettings,
  settings.MicroBatchSettings,
):
  """Settings with the paper's weight. Networks and epochs are sized for two cores."""

  stages: tuple[str, ...] = fields.setting(
    STAGES, "Stages to run, in this order.", choices=STAGES
  )
  teacher_network: str = fields.setting("cnn1:32", f"Teacher: {networks.DESCRIPTION}.")
  student_network: str = fields.setting("cnn1:8", f"Student: {networks.DESCRIPTION}.")
  layer_map: str = fields.setting(
    "dense:dense",
    "Teacher tap for each student tap, as pairs STUDENT_TAP:TEACHER_TAP,... A tap may "
    "also be a feature map such as f3. Empty: all taps, paired by name.",
    may_be_empty=True,
    stages=("student", "student_unrelated"),
  )
  optimizer: str = fields.setting(
    "adam",
    "Optimizer of all stages. Only sgd reads --momentum, --nesterov, --weight_decay "
    "and --warmup_epochs; only adam reads --adam_beta2.",
    choices=("adam", "sgd"),
  )
  teacher_epochs: str = fields.setting(
    "30@1e-3",
    "Epochs and learning rates of the optimizer, phase after phase, in the stage "
    "teacher: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=("teacher",),
  )
  student_epochs: str = fields.setting(
    "30@1e-3",
    "Epochs and learning rates of the optimizer, phase after phase, in every stage of "
    "a student: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=STAGES[1:],
  )
  weight: float = fields.setting(
    _PAPER_WEIGHT / _PAPER_BATCH,
    "Weight of the loss on similarities, which is a mean over rows. The paper's weight "
    "3000 is for the mean over all pairs in a batch of 128 images; it corresponds to "
    "3000 / 128 here.",
    least=0,
    stages=("student", "student_unrelated"),
  )
  kd_weight: float = fields.setting(
    0.9,
    "Weight of the softened logits in the stage student_kd.",
    least=0,
    stages=("student_kd",),
  )
  kd_temperature: float = fields.setting(
    4.0,
    "Temperature of the softened logits in the stage student_kd.",
    above=0,
    stages=("student_kd",),
  )


PRESETS: dict[str, dict[str, Any]] = {
  "digits": {
    "teacher_network": "digits_cnn:16",
    "student_network": "digits_cnn:4",
    "batch_size": 64,
    "teacher_epochs": "20@1e-3",
    "student_epochs": "20@1e-3",
    "flip": False,
    "crop_padding": 0,
  },
}


def configure(**given: Any) -> Config:
  """Make a configuration from the data set's preset and the given settings.

  Raises:
    ValueError: If a setting is wrong. The message names the setting, the expected
      values and the value given.
  """
  preset = PRESETS.get(given.get("dataset", Config.dataset), {})
  config = fields.configured(Config, preset, given)
  settings.check_settings(config, ("teacher_network", "student_network"))
  for name in ("teacher_epochs", "student_epochs"):
    optimizers.phases(getattr(config, name), f"--{name}")
  unread = _SGD_SETTINGS if config.optimizer == "adam" else ("adam_beta2",)
  for name in unread:
    if name in given:
      raise ValueError(
        f"--{name}: expected with the other --optimizer, got it with "
        f"--optimizer={config.optimizer}, which does not read it"
      )
  _layers(
    config, *map(networks.by_name, (config.student_network, config.teacher_network))
  )
  return config


def _layers(
  config: Config, student: capture.AnyModel, teacher: capture.AnyModel
) -> layer_matching.LayerMap:
  """Pairs of --layer_map: taps, or feature maps if the flag names them."""
  models = (student, teacher)
  if config.layer_map:
    names = [methods.layer_names(model) for model in models]
  else:
    names = [tuple(capture.adapt(model).taps) for model in models]
  return layer_matching.given_layers(config.layer_map, *names)


def select(
  config: Config, runner: stages.StageRunner
) -> Sequence[stages.Stage | stages.Imported]:
  """Stages that the job runs with these settings, in order."""
  arms = _Arms(config, runner)
  return [_STAGES[name](arms) for name in config.stages]


def run(config: Config) -> None:
  """Run the job; all its files are in `config.workdir`."""
  job_run.run_stages(config, select, STAGES)


class _Arms:
  """Stages of one configuration, by name."""

  def __init__(self, config: Config, runner: stages.StageRunner):
    self.config, self.runner = config, runner
    classes = runner.datasets.training.num_classes
    self.teacher_model, self.model = (
      settings.network(config, name, classes)
      for name in (config.teacher_network, config.student_network)
    )
    self.pairs = _layers(config, self.model, self.teacher_model)

  def teacher(self) -> stages.Stage:
    return self._stage(
      "teacher",
      "teacher on labels",
      lambda: self._supervised(self.teacher_model, "teacher"),
      role="teacher",
    )

  def student_labels(self) -> stages.Stage:
    return self._stage(
      "student_labels",
      "student on labels only",
      lambda: self._supervised(self.model, "student"),
    )

  def student_kd(self) -> stages.Stage:
    def make():
      return methods.knowledge_distillation(
        self.model,
        self._teacher(),
        self._optimizer("student"),
        temperature=self.config.kd_temperature,
        weight=self.config.kd_weight,
        label_weight=1 - min(self.config.kd_weight, 1),
        **self.config.method_options,
      )

    return self._stage("student_kd", "student by softened logits", make)

  def student(self) -> stages.Stage:
    return self._by_similarities("student", "student by similarities")

  def student_unrelated(self) -> stages.Stage:
    return self._by_similarities(
      "student_unrelated", "student by unrelated similarities", unrelated=True
    )

  def _by_similarities(self, name, title, **options):
    def make():
      return methods.similarity_preserving(
        self.model,
        self._teacher(),
        self._optimizer("student"),
        pairs=self.pairs,
        weight=self.config.weight,
        **self.config.method_options,
        **options,
      )

    return self._stage(name, title, make)

  def _supervised(self, model, role):
    return methods.supervised(
      model, self._optimizer(role), **self.config.method_options
    )

  def _stage(self, name, title, make, *, role="student"):
    epochs = getattr(self.config, f"{role}_epochs")
    return stages.Stage(
      name,
      title,
      make,
      optimizers.number_of_epochs(epochs),
      teacher="teacher" if name in STAGES[2:] else None,
      init_name=role,
    )

  def _teacher(self):
    teacher = self.runner.network("teacher", self.teacher_model)
    return settings.applied_teacher(self.config, teacher)

  def _optimizer(self, role):
    config = self.config
    shared = {
      "steps_per_epoch": self.runner.datasets.training.steps_per_epoch,
      "decay": config.learning_rate_decay,
    }
    epochs = getattr(config, f"{role}_epochs")
    if config.optimizer == "adam":
      return optimizers.adam(epochs, beta2=config.adam_beta2, **shared)
    return optimizers.sgd(
      epochs,
      momentum=config.momentum,
      nesterov=config.nesterov,
      weight_decay=config.weight_decay,
      warmup_epochs=config.warmup_epochs,
      **shared,
    )


# Stages by name, in the order of the table.
_STAGES: dict[str, Callable[[_Arms], stages.Stage]] = {
  "teacher": _Arms.teacher,
  "student_labels": _Arms.student_labels,
  "student_kd": _Arms.student_kd,
  "student": _Arms.student,
  "student_unrelated": _Arms.student_unrelated,
}
