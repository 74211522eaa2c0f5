r"""Distillation by any losses of the library, by name, beside the labels.

The student learns from labels and from a frozen teacher, by a weighted sum of losses.
Three stages:

  teacher         a large network, on labels
  student_labels  the student on labels only, for comparison
  student         from scratch, on labels and by the losses that --losses gives

and, when named in --stages, the student with the teacher's classifier on its own maps:

  student_simkd   SimKD (Chen et al., CVPR 2022), without labels

    flowkd train distill --dataset=digits --workdir=runs/digits
    flowkd train distill --dataset=cifar100 --data_dir=D --workdir=W \
        --teacher_network=resnet56 --student_network=resnet20 \
        --losses=kd:0.9,pkt:30000 --label_weight=0.1

Optimizer and phases are those of Tian et al., "Contrastive representation
distillation", ICLR 2020: SGD with momentum 0.9 and weight decay 5e-4 on all
parameters, 240 epochs of batches of 64, a tenth of the learning rate from epochs 151,
181 and 211 on. What losses learn, such as a projection, is trained by the same
optimizer. The last batch of an epoch is kept, short as it is: it is filled with rows
that are masked, which neither BatchNorm nor any loss reads.

The accuracy of the last epoch counts. Beside it results have
`best_test_epoch_accuracy`, the highest test accuracy of any measured epoch, which is
chosen on the test images: it can be compared with published numbers that were chosen
so, and with nothing else.

The teacher may come from an earlier run (--networks_from), from PyTorch weights
(--teacher_checkpoint), or as recorded outputs (--learn_from=recorded). Run the same
command again after any interruption and it goes on where it was.
"""

from collections.abc import Callable
from collections.abc import Mapping
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
  "student_stage",
  "trained_teacher",
  "uses_logits",
]


def run(config: Config) -> None:
  """Runs the experiment; everything it leaves is in `config.workdir`."""
  job_run.run_stages(
    config,
    lambda runner: _Stages(config, runner).selected(),
    distill_settings.ORDER,
  )


def best_test_epoch(metrics: report.MetricLog) -> Mapping[str, Any]:
  """The highest test accuracy of any measured epoch, and the epoch, counted from 0.

  It is chosen on the test images, and says nothing about other images.

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
  """The network that the student learns from, if there is one already.

  It is that of a finished stage, or comes from `networks_from` or
  `teacher_checkpoint`. Nothing is computed or written.

  Raises:
    ValueError: If the network is that of another model.
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
  """The stage of the student, not yet run."""
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
