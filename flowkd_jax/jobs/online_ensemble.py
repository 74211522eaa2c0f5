r"""Online ensemble compression: networks of several widths, trained together.

Walawalkar, Shen, Savvides, "Online Ensemble Model Compression using Knowledge
Distillation", ECCV 2020, https://arxiv.org/abs/2011.07449. There are three stages:

  alone        every student by itself, trained on labels (alone_2: only the second)
  shared_base  control: all students on a shared base, trained on labels only
  ensemble     the method: all students on a shared base, trained on labels, on the mean
               of their logits and on the maps of the widest student

    flowkd train online_ensemble --dataset=digits --workdir=runs/digits
    flowkd train online_ensemble --dataset=cifar10 --data_dir=D --workdir=W

The defaults are the paper's settings for CIFAR-10, which need a GPU. For two cores:

    ... --dataset=cifar10 --image_size=16 --train_split=train[:4000] --crop_padding=2 \
        --network=resnet8 --num_students=3 --epochs=10@0.1,5@0.01,5@0.001

The paper does not give weight decay and batch size; the defaults are those of the
authors' code. For CIFAR-10 this code uses --label_weight=1 --feature_weight=1
--ensemble_weight=1 --temperature=3. A label weight below 1 acts like a lower learning
rate on the labels than in the stage alone.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import limits
from flowkd_jax.jobs import optimizers
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

__all__ = [
  "PRESETS",
  "STAGES",
  "Config",
  "alone",
  "configure",
  "run",
  "select",
]

STAGES = ("alone", "shared_base", "ensemble")


@dataclasses.dataclass(frozen=True)
class Config(settings.MicroBatchSettings):
  """Settings with the paper's defaults. `configure` adapts them to a data set."""

  stages: tuple[str, ...] = fields.setting(
    STAGES,
    "Stages to run: alone (or alone_1, alone_2, ... for single students), "
    "shared_base, ensemble.",
  )
  network: str = fields.setting(
    "resnet20",
    "Widest student: resnetDEPTH or resnetDEPTH:WIDTH with a depth of 6n + 2,"
    " such as resnet8, resnet20, resnet110.",
  )
  num_students: int = fields.setting(
    5, "Number of students; their widths decrease in equal steps.", least=1
  )
  epochs: str = fields.setting(
    "175@0.1,88@0.01,87@0.001",
    "Epochs and learning rates of SGD, phase after phase, in every stage: "
    "EPOCHS@RATE,EPOCHS@RATE,...",
  )
  weight_decay: float = fields.setting(1e-4, "Weight decay of SGD.", least=0)
  label_weight: float = fields.setting(
    0.7,
    "Weight of the cross-entropy with the labels in the stages shared_base and "
    "ensemble.",
    above=0,
    stages=("shared_base", "ensemble"),
  )
  feature_weight: float = fields.setting(
    0.15,
    "Weight of the distance between the feature maps of each student and the widest "
    "student.",
    least=0,
    stages=("ensemble",),
  )
  ensemble_weight: float = fields.setting(
    0.15,
    "Weight of the divergence between each student and the ensemble.",
    least=0,
    stages=("ensemble",),
  )
  temperature: float = fields.setting(
    2.0,
    "Temperature of the divergence between each student and the ensemble.",
    above=0,
    stages=("ensemble",),
  )


# Differences from the paper's settings for CIFAR-10, by data set.
PRESETS: dict[str, dict[str, Any]] = {
  "digits": {
    "network": "resnet8:8",
    "num_students": 3,
    "batch_size": 64,
    "epochs": "6@0.1,2@0.01",
    "flip": False,
    "crop_padding": 0,
  },
  "cifar100": {"epochs": "225@0.1,113@0.01,112@0.001"},
}


def configure(**given: Any) -> Config:
  """Make a configuration from the data set's preset and the given settings.

  Raises:
    ValueError: If a setting is wrong. The message names the setting, the expected
      values and the value given.
  """
  preset = PRESETS.get(given.get("dataset", Config.dataset), {})
  config = fields.configured(Config, preset, given)
  settings.check_settings(config, ("network",))
  optimizers.phases(config.epochs, "--epochs")
  network = settings.staged_network(config, "network", num_classes=1)
  try:
    models.shrinking_ensemble(network, config.num_students)
  except ValueError as error:
    raise ValueError(f"--network, --num_students: {error}") from None
  for stage in config.stages:
    limits.check_choice("--stages", stage, (*STAGES, *alone(config)))
  return config


def alone(config: Config) -> tuple[str, ...]:
  """Names of the stages that train a student by itself, the widest first."""
  return tuple(f"alone_{j + 1}" for j in range(config.num_students))


def select(
  config: Config, runner: stages.StageRunner
) -> Sequence[stages.Stage | stages.Imported]:
  """Stages that the job runs with these settings, in order."""
  return _Stages(config, runner).selected()


def run(config: Config) -> None:
  """Run the job; all its files are in `config.workdir`."""
  order = (*alone(config), *STAGES[1:])
  job_run.run_stages(config, select, order)


class _Stages:
  """Stages of one configuration, by name."""

  def __init__(self, config: Config, runner: stages.StageRunner):
    self.config, self.training = config, runner.datasets.training
    self.network = settings.staged_network(config, "network", self.training.num_classes)

  def selected(self) -> list[stages.Stage]:
    names = []
    for name in self.config.stages:
      names += alone(self.config) if name == "alone" else [name]
    functions = self.by_name()
    return [functions[name]() for name in dict.fromkeys(names)]

  def by_name(self) -> dict[str, Callable[[], stages.Stage]]:
    """Functions that make the stages, in the order of the table."""
    return {
      **{
        name: functools.partial(self._alone, name, number)
        for number, name in enumerate(alone(self.config), start=1)
      },
      "shared_base": self._shared_base,
      "ensemble": self._ensemble,
    }

  def _shared_base(self):
    return self._together("shared_base", "shared base, labels only", 0.0, 0.0)

  def _ensemble(self):
    weights = self.config.feature_weight, self.config.ensemble_weight
    return self._together("ensemble", "online ensemble", *weights)

  def _together(self, name, title, feature_weight, ensemble_weight):
    return stages.Stage(
      name,
      title,
      lambda: methods.online_ensemble(
        self.network,
        self._sgd(),
        num_students=self.config.num_students,
        label_weight=self.config.label_weight,
        feature_weight=feature_weight,
        ensemble_weight=ensemble_weight,
        temperature=self.config.temperature,
        **self.config.method_options,
      ),
      optimizers.number_of_epochs(self.config.epochs),
      init_name="ensemble",
    )

  def _alone(self, name, number):
    ensemble = models.shrinking_ensemble(self.network, self.config.num_students)
    student = models.student_network(ensemble, number)
    return stages.Stage(
      name,
      f"student {number} alone",
      lambda: methods.supervised(student, self._sgd(), **self.config.method_options),
      optimizers.number_of_epochs(self.config.epochs),
    )

  def _sgd(self):
    return optimizers.sgd(
      self.config.epochs,
      steps_per_epoch=self.training.steps_per_epoch,
      decay=self.config.learning_rate_decay,
      weight_decay=self.config.weight_decay,
    )
