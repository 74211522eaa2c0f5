r"""Hierarchical self-supervised distillation: classes and rotations at each stage.

Yang, An, Cai, Xu, "Hierarchical Self-supervised Augmented Knowledge Distillation",
IJCAI 2021, https://arxiv.org/abs/2107.13715, and https://arxiv.org/abs/2109.03075.
There are seven stages. All students have the same architecture and initial weights:

  student_labels        student, trained on labels only
  teacher               a larger network with branches, trained on labels and joint
                        labels
  student_kd            student, trained on labels and the teacher's softened logits
  student_kd_rotations  student_kd on all four rotations, as many images as the method
                        sees
  student_joint_labels  student, trained on labels and joint labels, without a teacher
  student               the method: student, trained on labels and on the teacher's
                        logits and branches
  online                two students that teach each other, without a teacher

Two further stages run if they are named in --stages:

  teacher_labels        teacher, trained on labels only
  teacher_frozen        the network of teacher_labels, frozen, with branches trained on
                        joint labels; it teaches with --teacher=teacher_frozen

    flowkd train hierarchical_self_supervised --dataset=cifar100 \
        --data_dir=D --workdir=W

The defaults are the authors' settings for CIFAR-100, which need a GPU. For two cores:

    ... --dataset=cifar10 --image_size=16 --train_split=train[:4000] --crop_padding=2 \
        --teacher_network=resnet8:16 --student_network=resnet8:4 \
        --teacher_epochs=20@0.05,10@0.005 --student_epochs=20@0.05,10@0.005

Use the data set digits only as a trial run: a rotated 6 is a 9.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import optimizers
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

__all__ = [
  "ORDER",
  "PRESETS",
  "STAGES",
  "TEACHERS",
  "Config",
  "configure",
  "run",
  "select",
]

STAGES = (
  "student_labels",
  "teacher",
  "student_kd",
  "student_kd_rotations",
  "student_joint_labels",
  "student",
  "online",
)
TEACHERS = ("teacher", "teacher_frozen")
# Stages of students that learn from a teacher.
_TAUGHT = ("student_kd", "student_kd_rotations", "student")
# All stages, in the order of the results table.
ORDER = (STAGES[0], "teacher_labels", "teacher_frozen", *STAGES[1:])
_EPOCHS = ("teacher_epochs", "branch_epochs", "student_epochs")
_NETWORKS = ("teacher_network", "student_network")


@dataclasses.dataclass(frozen=True)
class Config(settings.TeacherSettings, settings.MicroBatchSettings):
  """Settings with the authors' defaults. `configure` adapts them to a data set."""

  stages: tuple[str, ...] = fields.setting(
    STAGES,
    "Stages to run, in this order. teacher_labels and teacher_frozen run only"
    " if they are named.",
    choices=ORDER,
  )
  teacher_network: str = fields.setting(
    "resnet56",
    "Teacher: resnetDEPTH or resnetDEPTH:WIDTH with a depth of 6n + 2, such "
    "as resnet8, resnet20, resnet110.",
  )
  student_network: str = fields.setting(
    "resnet20",
    "Student: resnetDEPTH or resnetDEPTH:WIDTH with a depth of 6n + 2, such "
    "as resnet8, resnet20, resnet110.",
  )
  teacher: str = fields.setting(
    "teacher",
    "Stage whose network teaches the students.",
    choices=TEACHERS,
    stages=_TAUGHT,
  )
  batch_size: int = fields.setting(
    64,
    "Number of images in a training step, over all devices, before rotations turn each "
    "into four.",
    least=1,
  )
  teacher_epochs: str = fields.setting(
    "150@0.05,30@5e-3,30@5e-4,30@5e-5",
    "Epochs and learning rates of SGD, phase after phase, in the stages "
    "teacher and teacher_labels: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=("teacher", "teacher_labels"),
  )
  branch_epochs: str = fields.setting(
    "30@0.05,30@5e-3,30@5e-4,10@5e-5",
    "Epochs and learning rates of SGD, phase after phase, in the stage "
    "teacher_frozen: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=("teacher_frozen",),
  )
  student_epochs: str = fields.setting(
    "150@0.05,30@5e-3,30@5e-4,30@5e-5",
    "Epochs and learning rates of SGD, phase after phase, in every stage of a"
    " student and in the stage online: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=("student_labels", "student_joint_labels", *_TAUGHT, "online"),
  )
  weight_decay: float = fields.setting(5e-4, "Weight decay of SGD.", least=0)
  temperature: float = fields.setting(
    3.0, "Temperature of all divergences.", above=0, stages=(*_TAUGHT, "online")
  )


# Differences from the authors' settings for CIFAR-100, by data set.
PRESETS: dict[str, dict[str, Any]] = {
  "digits": {
    "teacher_network": "resnet8:8",
    "student_network": "resnet8:4",
    "teacher_epochs": "4@0.05,1@5e-3",
    "branch_epochs": "4@0.05,1@5e-3",
    "student_epochs": "4@0.05,1@5e-3",
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
  settings.check_settings(config, _NETWORKS)
  for name in _EPOCHS:
    optimizers.phases(getattr(config, name), f"--{name}")
  for name in _NETWORKS:
    settings.staged_network(config, name, num_classes=1)
  return config


def select(
  config: Config, runner: stages.StageRunner
) -> Sequence[stages.Stage | stages.Imported]:
  """Stages that the job runs with these settings, in order."""
  return _Stages(config, runner).selected()


def run(config: Config) -> None:
  """Run the job; all its files are in `config.workdir`."""
  job_run.run_stages(config, select, ORDER)


class _Stages:
  """Stages of one configuration, by name."""

  def __init__(self, config: Config, runner: stages.StageRunner):
    self.config, self.runner = config, runner
    self.training = runner.datasets.training
    self.teacher_model, self.student_model = (
      settings.staged_network(config, name, self.training.num_classes)
      for name in _NETWORKS
    )

  def selected(self) -> list[stages.Stage]:
    return [_STAGES[name](self) for name in self.config.stages]

  def student_labels(self) -> stages.Stage:
    return self._of_student(
      "student_labels",
      "student on labels only",
      lambda: self._supervised(self.student_model, "student"),
    )

  def teacher_labels(self) -> stages.Stage:
    return self._of_teacher(
      "teacher_labels",
      "teacher on labels only",
      lambda: self._supervised(self.teacher_model, "teacher"),
    )

  def teacher_frozen(self) -> stages.Stage:
    def make():
      backbone = self.runner.network("teacher_labels", self.teacher_model).variables
      return self._with_branches(self.teacher_model, "branch", backbone=backbone)

    title = "frozen teacher with branches"
    return self._of_teacher("teacher_frozen", title, make, phases="branch")

  def teacher(self) -> stages.Stage:
    return self._of_teacher(
      "teacher",
      "teacher with branches",
      lambda: self._with_branches(self.teacher_model, "teacher"),
    )

  def student_kd(self) -> stages.Stage:
    return self._of_student(
      "student_kd",
      "student by softened logits",
      lambda: methods.knowledge_distillation(
        self.student_model,
        self._frozen_teacher(),
        self._sgd("student"),
        temperature=self.config.temperature,
        label_weight=1.0,
        **self.config.method_options,
      ),
      taught=True,
    )

  def student_kd_rotations(self) -> stages.Stage:
    title = "student by softened logits, rotations"
    return self._hierarchical("student_kd_rotations", title, branches=False)

  def student_joint_labels(self) -> stages.Stage:
    return self._of_student(
      "student_joint_labels",
      "student on joint labels",
      lambda: self._with_branches(self.student_model, "student", keep_branches=False),
    )

  def student(self) -> stages.Stage:
    title = "student by logits and branches"
    return self._hierarchical("student", title, branches=True)

  def online(self) -> stages.Stage:
    return self._of_student(
      "online",
      "two students, each by the other",
      lambda: methods.hierarchical_mutual(
        (self.student_model, self.student_model),
        self._sgd("student"),
        temperature=self.config.temperature,
        **self.config.method_options,
      ),
    )

  def _supervised(self, model, role):
    return methods.supervised(model, self._sgd(role), **self.config.method_options)

  def _with_branches(self, model, phases, **options):
    return methods.hierarchical_teacher(
      model, self._sgd(phases), **self.config.method_options, **options
    )

  def _hierarchical(self, name, title, *, branches):
    return self._of_student(
      name,
      title,
      lambda: methods.hierarchical_student(
        self.student_model,
        self._frozen_teacher(),
        self._sgd("student"),
        temperature=self.config.temperature,
        branches=branches,
        **self.config.method_options,
      ),
      taught=True,
    )

  def _frozen_teacher(self):
    joint_classes = 4 * self.training.num_classes
    branched = models.with_branches(self.teacher_model, joint_classes)
    teacher = self.runner.network(self.config.teacher, branched)
    return settings.applied_teacher(self.config, teacher)

  def _of_student(self, name, title, make, *, taught=False):
    return stages.Stage(
      name,
      title,
      make,
      self._epochs("student"),
      teacher=self.config.teacher if taught else None,
      init_name="student",
    )

  def _of_teacher(self, name, title, make, *, phases="teacher"):
    return stages.Stage(name, title, make, self._epochs(phases), init_name="teacher")

  def _epochs(self, phases):
    return optimizers.number_of_epochs(getattr(self.config, f"{phases}_epochs"))

  def _sgd(self, phases):
    return optimizers.sgd(
      getattr(self.config, f"{phases}_epochs"),
      steps_per_epoch=self.training.steps_per_epoch,
      decay=self.config.learning_rate_decay,
      weight_decay=self.config.weight_decay,
    )


# Stages by name, in the order of the table.
_STAGES: dict[str, Callable[[_Stages], stages.Stage]] = {
  "student_labels": _Stages.student_labels,
  "teacher_labels": _Stages.teacher_labels,
  "teacher_frozen": _Stages.teacher_frozen,
  "teacher": _Stages.teacher,
  "student_kd": _Stages.student_kd,
  "student_kd_rotations": _Stages.student_kd_rotations,
  "student_joint_labels": _Stages.student_joint_labels,
  "student": _Stages.student,
  "online": _Stages.online,
}
