r"""Distillation by losses of the library, chosen by name, and by labels.

The student learns from labels and from a frozen teacher, by a weighted sum of losses.
There are three stages:

  teacher         a large network, trained on labels
  student_labels  student, trained on labels only, for comparison
  student         student from scratch, trained on labels and by the losses of --losses

A further stage runs if it is named in --stages:

  student_simkd   SimKD (Chen et al., CVPR 2022): student that reuses the teacher's
                  classifier, trained without labels

    flowkd train distill --dataset=digits --workdir=runs/digits
    flowkd train distill --dataset=cifar100 --data_dir=D --workdir=W \
        --teacher_network=resnet56 --student_network=resnet20 \
        '--losses=kd:0.9,pkt(authors=true):30000' --label_weight=0.1

Optimizer and phases follow Tian et al., "Contrastive representation distillation", ICLR
2020: SGD with momentum 0.9 and weight decay 5e-4 on all parameters, 240 epochs, batches
of 64, and a learning rate that is divided by 10 after epochs 150, 180 and 210. Learnt
parameters of losses, such as a projection, are trained by the same optimizer. The last,
short batch of an epoch is kept; it is filled up with masked rows, which neither
BatchNorm nor losses read.

The reported accuracy is that of the last epoch. Results also hold
`best_test_epoch_accuracy`, the highest test accuracy of any measured epoch. As it is
selected on the test images, compare it only with published numbers that were selected
in the same way.

The teacher can also come from an earlier run (--networks_from), from PyTorch weights
(--teacher_checkpoint), or from recorded outputs (--learn_from=recorded). To resume an
interrupted run, repeat the command.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from flowkd_jax import methods
from flowkd_jax import report
from flowkd_jax import train
from flowkd_jax.jobs import distill_settings
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import loss_terms
from flowkd_jax.jobs import optimizers
from flowkd_jax.jobs import pretrained
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages
from flowkd_jax.jobs.distill_settings import PRESETS
from flowkd_jax.jobs.distill_settings import STAGES
from flowkd_jax.jobs.distill_settings import Config
from flowkd_jax.jobs.distill_settings import configure

__all__ = [
  "PRESETS",
  "STAGES",
  "Config",
  "best_test_epoch",
  "configure",
  "run",
  "select",
  "student_stage",
  "trained_teacher",
  "uses_logits",
]


def select(
  config: Config, runner: stages.StageRunner
) -> Sequence[stages.Stage | stages.Imported]:
  """Stages that the job runs with these settings, in order."""
  return _Stages(config, runner).selected()


def run(config: Config) -> None:
  """Run the job; all its files are in `config.workdir`."""
  job_run.run_stages(config, select, distill_settings.ORDER)


def best_test_epoch(metrics: report.MetricLog) -> Mapping[str, Any]:
  """Highest test accuracy of any measured epoch, and the epoch, counted from 0.

  The epoch is selected on the test images, so the accuracy is too optimistic for other
  images.

  Args:
    metrics: Records of the epochs of a stage.
  """
  measured = [
    (entry["test_accuracy"], entry["epoch"])
    for entry in metrics
    if entry.get("test_accuracy") is not None and entry["epoch"] >= 0
  ]
  if not measured:
    return {}
  accuracy, epoch = max(measured, key=lambda pair: (pair[0], -pair[1]))
  return {"best_test_epoch_accuracy": accuracy, "best_test_epoch": epoch}


def trained_teacher(
  config: Config, runner: stages.StageRunner
) -> methods.Network | None:
  """Teacher of the student, or None if it is not trained yet.

  The teacher comes from a finished stage, `networks_from` or `teacher_checkpoint`.
  Nothing is computed or written.

  Raises:
    ValueError: If the stored variables belong to another network.
  """
  found = _Stages(config, runner)
  if runner.is_done("teacher"):
    return runner.network("teacher", found.model("teacher"))
  source = found.teacher()
  if isinstance(source, stages.Stage):
    return None
  network = source.network
  return network._replace(model=train.for_evaluation(network.model))


def student_stage(config: Config, runner: stages.StageRunner) -> stages.Stage:
  """Stage of the student, before it runs."""
  return _Stages(config, runner).student()


def uses_logits(config: Config) -> bool:
  """Returns whether a loss of the student compares logits."""
  return any(not methods.loss_by_name(each["loss"]).taps for each in config.tables)


class _Stages:
  """Stages of one configuration, by name."""

  def __init__(self, config: Config, runner: stages.StageRunner):
    self.config, self.runner = config, runner
    self.training = runner.datasets.training

  def selected(self) -> list[stages.Stage | stages.Imported]:
    recorded = self.config.learn_from == distill_settings.RECORDED
    skipped = ("teacher",) if recorded else ()
    return [_STAGES[name](self) for name in self.config.stages if name not in skipped]

  def teacher(self) -> stages.Stage | stages.Imported:
    model = self.model("teacher")
    if self.config.networks_from is not None:
      found = pretrained.imported(
        self.config.networks_from, "teacher", model, self.training.image_shape
      )
      if found is not None:
        return found
    if self.config.teacher_checkpoint is not None:
      variables = imported_weights.variables(
        "--teacher_checkpoint",
        self.config.teacher_checkpoint,
        "--teacher_network",
        model,
      )
      network = methods.Network(model, variables)
      return stages.Imported("teacher", "teacher, imported", network)
    return self._on_labels("teacher", "teacher on labels", "teacher")

  def student_labels(self) -> stages.Stage:
    return self._on_labels("student_labels", "student on labels only", "student")

  def student(self) -> stages.Stage:
    recorded = self.config.learn_from == distill_settings.RECORDED
    tables = self.config.tables

    def make():
      return methods.combined_losses(
        self.model("student"),
        self._frozen_teacher(),
        self._sgd("student"),
        losses=loss_terms.terms(tables, self.training.steps_per_epoch),
        image_shape=self.training.image_shape,
        num_examples=self.training.num_examples,
        label_weight=self.config.label_weight,
        label_smoothing=self.config.label_smoothing,
        **self.config.method_options,
      )

    return self._stage(
      "student",
      f"student by {', '.join(table['loss'] for table in tables)}",
      make,
      "student",
      teacher=None if recorded else "teacher",
      classifies=self.config.label_weight > 0 or uses_logits(self.config),
    )

  def student_simkd(self) -> stages.Stage:
    def make():
      student, teacher = self.model("student"), self._frozen_teacher()
      return methods.simkd(
        student,
        teacher,
        self._sgd("student"),
        pairs=methods.tap_pairs(
          "last_map", student, teacher.model, self.training.image_shape
        ),
        **self.config.method_options,
      )

    title = "student with the teacher's classifier (SimKD)"
    return self._stage("student_simkd", title, make, "student", teacher="teacher")

  def _frozen_teacher(self) -> methods.Network:
    if self.config.learn_from == distill_settings.RECORDED:
      return distill_settings.described_teacher(self.config)
    network = self.runner.network("teacher", self.model("teacher"))
    return settings.applied_teacher(self.config, network)

  def _on_labels(self, name, title, role):
    return self._stage(
      name,
      title,
      lambda: methods.supervised(
        self.model(role),
        self._sgd(role),
        label_smoothing=self.config.label_smoothing,
        **self.config.method_options,
      ),
      role,
    )

  def _stage(self, name, title, make, role, **options):
    return stages.Stage(
      name,
      title,
      make,
      optimizers.number_of_epochs(getattr(self.config, f"{role}_epochs")),
      init_name=role,
      summarize=best_test_epoch,
      **options,
    )

  def model(self, role):
    name = getattr(self.config, f"{role}_network")
    return settings.network(self.config, name, self.training.num_classes)

  def _sgd(self, role):
    return optimizers.sgd(
      getattr(self.config, f"{role}_epochs"),
      steps_per_epoch=self.training.steps_per_epoch,
      decay=self.config.learning_rate_decay,
      momentum=self.config.momentum,
      nesterov=self.config.nesterov,
      weight_decay=self.config.weight_decay,
      warmup_epochs=self.config.warmup_epochs,
    )


# Stages by name, in the order of the table.
_STAGES: dict[str, Callable[[_Stages], stages.Stage | stages.Imported]] = {
  "teacher": _Stages.teacher,
  "student_labels": _Stages.student_labels,
  "student": _Stages.student,
  "student_simkd": _Stages.student_simkd,
}
