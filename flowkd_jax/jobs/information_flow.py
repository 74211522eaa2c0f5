"""Information-flow distillation with teacher, auxiliary teacher and student.

Passalis, Tzelepi, Tefas, "Heterogeneous Knowledge Distillation using Information Flow
Modeling", CVPR 2020, https://arxiv.org/abs/2005.00727. There are five stages:

  teacher           a large network, trained on labels
  student_labels    student, trained on labels only, for comparison
  auxiliary_labels  auxiliary teacher, a wider network of the student's architecture,
                    trained on labels
  auxiliary         auxiliary teacher, trained further: its last tap learns from the
                    teacher's last tap
  student           student from scratch, without labels: all taps learn from the
                    auxiliary teacher's taps; the weights of intermediate taps follow
                    the critical-period schedule

Three baselines run if they are named in --stages. They train the same student from the
auxiliary teacher, without labels:

  student_kd        by softened logits
  student_hint      by the last tap, through a learnt linear map
  student_pkt       by the neighbour probabilities of the last tap (PKT)

    flowkd train information_flow --dataset=digits --workdir=runs/digits
    flowkd train information_flow --dataset=cifar10 --data_dir=D --workdir=W

To resume an interrupted run, repeat the command. The work directory holds config.json,
metrics.jsonl, tensorboard/, results.json, results.md, pictures/, and the network of
each stage.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import pooling
from flowkd_jax import schedules
from flowkd_jax import teacher_cache
from flowkd_jax import train
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import layer_matching
from flowkd_jax.jobs import optimizers
from flowkd_jax.jobs import pretrained
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages
from flowkd_jax.jobs.flow_settings import PRESETS
from flowkd_jax.jobs.flow_settings import RECIPES
from flowkd_jax.jobs.flow_settings import Config
from flowkd_jax.jobs.flow_settings import configure

__all__ = [
  "PRESETS",
  "RECIPES",
  "Config",
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
  job_run.run_stages(config, select, flow_settings.ORDER)


def trained_teacher(
  config: Config, runner: stages.StageRunner
) -> methods.Network | None:
  """Teacher of the student, or None if it is not trained yet.

  The teacher comes from a finished stage, `networks_from` or `auxiliary_checkpoint`.
  Nothing is computed or written.

  Raises:
    ValueError: If the stored variables belong to another network.
  """
  name = config.learn_from
  found = _Stages(config, runner)
  if runner.is_done(name):
    return runner.network(name, found.model(name))
  if name == "auxiliary" and config.auxiliary_checkpoint is not None:
    source = found.imported_auxiliary()
  else:
    source = found.of_earlier_run(name)
  if source is None:
    return None
  network = source.network
  return network._replace(model=train.for_evaluation(network.model))


def uses_logits(config: Config) -> bool:
  """Returns whether a stage learns from the logits of its teacher."""
  return config.last_tap_from != "tap" or "student_kd" in config.stages


def student_stage(config: Config, runner: stages.StageRunner) -> stages.Stage:
  """Stage of the student, before it runs."""
  return _Stages(config, runner).student()


class _Stages:
  """Stages of one configuration, by name."""

  def __init__(self, config: Config, runner: stages.StageRunner):
    self.config, self.runner = config, runner
    self.training = runner.datasets.training
    self.num_classes = self.training.num_classes

  def selected(self) -> list[stages.Stage | stages.Imported]:
    imported = self.config.auxiliary_checkpoint is not None
    skipped = ("teacher", "auxiliary_labels") if imported else ()
    chosen = [name for name in self.config.stages if name not in skipped]
    return [self.of_earlier_run(name) or _STAGES[name](self) for name in chosen]

  def of_earlier_run(self, name) -> stages.Imported | None:
    workdir = self.config.networks_from
    if workdir is None or name not in flow_settings.TEACHERS:
      return None
    model = self.model(name.removesuffix("_labels"))
    return pretrained.imported(workdir, name, model, self.training.image_shape)

  def teacher(self):
    return self._on_labels("teacher", "teacher on labels", "teacher")

  def student_labels(self):
    return self._on_labels("student_labels", "student on labels only", "student")

  def auxiliary_labels(self):
    return self._on_labels("auxiliary_labels", "auxiliary on labels", "auxiliary")

  def auxiliary(self):
    model = self.model("auxiliary")
    if self.config.auxiliary_checkpoint is not None:
      return self.imported_auxiliary()
    teacher = self.model("teacher")
    last = {model.taps[-1]: teacher.taps[-1]}

    def make():
      start = self.runner.network("auxiliary_labels", model).variables
      return self._distilled(
        model,
        self._applied("teacher", teacher),
        pairs=last,
        weights=dict.fromkeys(last, 1.0),
        optimizer=self._adam("auxiliary"),
        initial=start,
      )

    return stages.Stage(
      "auxiliary",
      "auxiliary from the teacher, last tap",
      make,
      self._epochs("auxiliary"),
      teacher="teacher",
      # The transfer changes the taps but does not train the classifier on them.
      classifies=False,
    )

  def imported_auxiliary(self) -> stages.Imported:
    """Auxiliary teacher with the weights of the file `auxiliary_checkpoint`."""
    model = self.model("auxiliary")
    variables = imported_weights.variables(
      "--auxiliary_checkpoint",
      self.config.auxiliary_checkpoint or "",
      "--auxiliary_network",
      model,
    )
    network = methods.Network(model, variables)
    return stages.Imported("auxiliary", "auxiliary, imported", network)

  def student(self):
    model = self.model("student")
    if self.config.layer_map not in layer_matching.FOUND:
      taps = self._source_model(self.config.learn_from).taps
      layer_matching.given_layers(self.config.layer_map, model.taps, taps)
    schedule = schedules.critical_period(
      self.config.flow_weight_init,
      self.config.flow_weight_gamma,
      steps_per_epoch=self.training.steps_per_epoch,
      by_step=self.config.schedule_by_step,
    )

    def make(model, teacher):
      pairs = self._pairs(model, teacher)
      last = [*pairs][-1]
      if self.config.last_tap_from != "tap":
        pairs |= {last: self.config.last_tap_from}
      weights = dict.fromkeys(pairs, schedule) | {last: 1.0}
      sharper = self.config.last_tap_kernels
      if self.config.normalize_flow_weights:
        weights = schedules.normalized(weights)
      method = self._distilled(
        model,
        teacher,
        pairs=pairs,
        weights=weights,
        of_taps={last: {"kernels": sharper}} if sharper else {},
        optimizer=self._adam("student", reset=self.config.reset_optimizer),
        label_weight=self.config.label_weight,
      )
      decay = self.config.average
      return methods.averaged(method, decay=decay) if decay else method

    return self._from_scratch(
      "student",
      "student by information flow",
      make,
      learn_from=self.config.learn_from,
      classifies=self.config.label_weight > 0,
    )

  def _pairs(self, model, teacher) -> layer_matching.LayerMap:
    """Teacher tap of each student tap; a resumed run reads the map that it saved."""
    folder = self.runner.workdir / "student"
    saved = folder / layer_matching.FILE
    if self.config.layer_map not in layer_matching.FOUND or saved.exists():
      text = str(saved) if saved.exists() else self.config.layer_map
      return layer_matching.given_layers(text, model.taps, teacher.model.taps)
    if self.runner.is_checking:  # Networks are not trained yet: any pairs will do.
      return {tap: str(teacher.model.taps[-1]) for tap in model.taps}
    probe = self.runner.datasets.probe
    features = [
      train.FeatureExtractor(network.model, probe)(network.variables)
      for network in (self._compared_student(model), teacher)
    ]
    pairs = layer_matching.found_layers(
      self.config.layer_map,
      *features,
      num_classes=self.num_classes,
      folder=folder if self.runner.writes else None,
    )
    shown = ", ".join(f"{tap} from {other}" for tap, other in pairs.items())
    self.runner.progress.say(f"layer map, {self.config.layer_map}: {shown}")
    return pairs

  def _compared_student(self, model) -> methods.Network:
    """Student whose taps are compared: trained on labels if possible."""
    if self.runner.is_done("student_labels"):
      return self.runner.network("student_labels", model)
    self.runner.progress.say(
      "layer map: the student is compared untrained, which in our experiments gave "
      "worse pairs than a map by hand; run the stage student_labels first to compare "
      "a trained student"
    )
    images = jnp.zeros((2, *self.training.image_shape))
    model = train.for_evaluation(model)
    key = jax.random.key(self.config.seed)
    return methods.Network(model, capture.init(model, key, images))

  def student_kd(self):
    def make(model, auxiliary):
      return methods.knowledge_distillation(
        model,
        auxiliary,
        self._adam("student"),
        temperature=self.config.kd_temperature,
        **self.config.method_options,
      )

    return self._from_scratch(
      "student_kd", "student by softened logits", make, classifies=True
    )

  def student_hint(self):
    def make(model, auxiliary):
      last = {model.taps[-1]: auxiliary.model.taps[-1]}
      return methods.hint(
        model,
        auxiliary,
        self._adam("student"),
        pairs=last,
        **self.config.method_options,
      )

    return self._from_scratch("student_hint", "student by hint, last tap", make)

  def student_pkt(self):
    def make(model, auxiliary):
      last = {model.taps[-1]: auxiliary.model.taps[-1]}
      return methods.information_flow(
        model,
        auxiliary,
        self._adam("student"),
        pairs=last,
        weights=dict.fromkeys(last, 1.0),
        matching_options={"kernels": "cosine", "divergence": "kl"},
        **self.config.method_options,
      )

    return self._from_scratch("student_pkt", "student by PKT, last tap", make)

  def _from_scratch(
    self, name, title, make, *, learn_from="auxiliary", classifies=False
  ):
    """Stage of a student from scratch; `make` takes the student and its teacher."""
    model = self.model("student")
    recorded = learn_from == flow_settings.RECORDED

    def make_method():
      if recorded:
        return make(model, self._recorded())
      teacher = self._applied(learn_from, self.model(learn_from))
      if self.config.teacher_pooling is not None:
        pool = pooling.POOLINGS[self.config.teacher_pooling]
        teacher = teacher._replace(model=capture.pooled(teacher.model, pool))
      return make(model, teacher)

    return stages.Stage(
      name,
      title,
      make_method,
      self._epochs("student"),
      teacher=None if recorded else learn_from,
      classifies=classifies,
      init_name="student",
    )

  def _applied(self, name, model) -> methods.Network:
    """Network of a finished stage as a frozen teacher."""
    return settings.applied_teacher(self.config, self.runner.network(name, model))

  def _recorded(self) -> methods.Network:
    return teacher_cache.recorded_teacher(
      teacher_cache.describe_cache(self.config.teacher_cache or "")
    )

  def _source_model(self, learn_from):
    recorded = learn_from == flow_settings.RECORDED
    return self._recorded().model if recorded else self.model(learn_from)

  def _on_labels(self, name, title, role):
    model = self.model(role)
    return stages.Stage(
      name,
      title,
      lambda: methods.supervised(model, self._adam(name), **self.config.method_options),
      self._epochs(name),
      init_name=role,
    )

  def _distilled(self, model, teacher, *, of_taps=None, **options) -> methods.Method:
    matching_options: dict[str, Any] = {
      "kernels": self.config.kernels,
      "taps": of_taps or {},
    }
    if self.config.matching == "probabilities":
      matching_options["divergence"] = self.config.divergence
      matching_options["authors"] = self.config.authors
    else:
      matching_options["num_classes"] = self.num_classes
    return methods.information_flow(
      model,
      teacher,
      matching=self.config.matching,
      matching_options=matching_options,
      **self.config.method_options,
      **options,
    )

  def model(self, role):
    name = getattr(self.config, f"{role}_network")
    return settings.network(self.config, name, self.num_classes)

  def _epochs(self, name) -> int:
    return optimizers.number_of_epochs(getattr(self.config, f"{name}_epochs"))

  def _adam(self, name, *, reset: bool = False):
    return optimizers.adam(
      getattr(self.config, f"{name}_epochs"),
      steps_per_epoch=self.training.steps_per_epoch,
      decay=self.config.learning_rate_decay,
      beta2=self.config.adam_beta2,
      reset_each_epoch=reset,
    )


# Stages by name, in the order of the table.
_STAGES: dict[str, Callable[[_Stages], stages.Stage | stages.Imported]] = {
  "teacher": _Stages.teacher,
  "student_labels": _Stages.student_labels,
  "auxiliary_labels": _Stages.auxiliary_labels,
  "auxiliary": _Stages.auxiliary,
  "student_kd": _Stages.student_kd,
  "student_hint": _Stages.student_hint,
  "student_pkt": _Stages.student_pkt,
  "student": _Stages.student,
}
