"""Checks of flags, data, devices and teacher before a long run.

The doctor takes the flags of `flowkd train information_flow`, or of `flowkd train
distill` after the name distill. It trains nothing and writes nothing, takes about a
minute, and prints one sentence for each check:

    flowkd doctor --dataset=cifar10 --data_dir=D --workdir=W
    flowkd doctor distill --dataset=cifar10 --data_dir=D --workdir=W --losses=kd,pkt

Before the first run, the doctor checks flags, data, devices, memory and the time of a
step, with random weights for the teacher. If the teacher is trained, or comes from
--networks_from, --auxiliary_checkpoint or --teacher_checkpoint, the doctor also checks
the teacher's accuracy, statistics and taps, and the student's first losses and
gradients.

Exit status: 0 if there are at most warnings, 1 if something is wrong, 2 if flags or
data cannot be used.
"""

import dataclasses
import sys
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import parallel
from flowkd_jax import train
from flowkd_jax.jobs import distill
from flowkd_jax.jobs import distill_settings
from flowkd_jax.jobs import environment
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import information_flow
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import stages
from flowkd_jax.jobs import step_checks
from flowkd_jax.jobs import teacher_checks
from flowkd_jax.jobs.finding import Finding
from flowkd_jax.jobs.finding import Level

__all__ = [
  "JOBS",
  "PRESETS",
  "RECIPES",
  "AnyConfig",
  "Config",
  "LookAhead",
  "batch_scope",
  "configure",
  "devices",
  "examine",
  "examples",
  "measuring",
  "no_teacher",
  "run",
  "settings",
]

# Jobs whose flags the doctor takes, by name. The first is the default.
JOBS = {"information_flow": information_flow, "distill": distill}
AnyConfig = flow_settings.Config | distill_settings.Config
Config = information_flow.Config
configure = information_flow.configure
PRESETS, RECIPES = information_flow.PRESETS, information_flow.RECIPES


def run(config: AnyConfig) -> None:
  """Print all findings; exit with status 1 if something is wrong.

  Raises:
    ValueError: If data or networks cannot be used with these flags.
  """
  if config.learn_from == flow_settings.RECORDED:
    names = [name for name in _choices(config) if name != flow_settings.RECORDED]
    raise ValueError(
      f"--learn_from: expected {' or '.join(names)}, as the doctor checks networks, "
      f"got {flow_settings.RECORDED}"
    )
  progress = train.Progress()
  datasets = job_run.open_datasets(config, progress)
  levels = []
  for finding in examine(config, datasets, progress):
    levels.append(finding.level)
    progress.say(f"{finding.level.value:>8}  {finding.text}")
  if Level.WRONG in levels:
    sys.exit(1)


class LookAhead(stages.StageRunner):
  """Stage runner that writes nothing and replaces a missing teacher by a random one.

  Attributes:
    teacher: The trained teacher; None if there is none.
  """

  writes = False
  teacher: methods.Network | None = None

  @property
  def is_checking(self) -> bool:
    """True if layers are not compared, because the teacher is not trained."""
    return self.teacher is None

  def network(
    self, name: str, model: capture.AnyModel, exported: str = "network"
  ) -> methods.Network:
    """Network of a finished stage, otherwise the teacher or a random network."""
    if self.is_done(name):
      return super().network(name, model, exported)
    if self.teacher is not None:
      return self.teacher
    model = train.for_evaluation(model)
    images = jnp.zeros((2, *self.datasets.training.image_shape))
    return methods.Network(model, capture.init(model, self._key(name), images))


def examine(
  config: AnyConfig, datasets: stages.Datasets, progress: train.Progress
) -> Iterator[Finding]:
  """Yield all findings, the cheapest checks first."""
  yield settings(config)
  yield from examples(datasets)
  yield devices()
  yield batch_scope(config.batch_size, jax.local_device_count())
  runner = cast(
    "LookAhead",
    job_run.stage_runner(config, datasets, progress, runner_class=LookAhead),
  )
  job = _job(config)[1]
  teacher = runner.teacher = job.trained_teacher(config, runner)
  stage = job.student_stage(config, runner)
  rehearsal = step_checks.Rehearsal(
    stage.make_method(), datasets.training, runner.options
  )
  needed = step_checks.memory(rehearsal.needed_bytes(), environment.device_bytes())
  yield needed
  yield measuring([*rehearsal.networks().values(), teacher], datasets.probe)
  if needed.level is not Level.WRONG:
    yield step_checks.step_time(
      rehearsal.step_seconds(), datasets.training.steps_per_epoch, stage.epochs
    )
  if teacher is None:
    yield no_teacher(config)
    return
  probe = train.FeatureExtractor(teacher.model, datasets.probe)(teacher.variables)
  yield from teacher_checks.classifier(
    probe, datasets.training.num_classes, logits_are_used=job.uses_logits(config)
  )
  yield teacher_checks.evaluation_mode(teacher, datasets.probe)
  yield from teacher_checks.taps(probe.taps)
  if needed.level is not Level.WRONG:
    yield step_checks.magnitudes(rehearsal.first_metrics())
    yield step_checks.gradients(rehearsal.gradient_norms())


def measuring(
  networks: Sequence[methods.Network | None], probe: data.Batches
) -> Finding:
  """Memory that measuring the largest of several networks needs."""
  planned = [
    train.FeatureExtractor(train.for_evaluation(model), probe).planned(variables)
    for model, variables in filter(None, networks)
  ]
  rows, needed = max(planned, key=lambda plan: plan[1])
  return step_checks.measuring(rows, needed, environment.device_bytes())


def _job(config: AnyConfig) -> tuple[str, ModuleType]:
  """Name and module of the job with these settings."""
  return next(item for item in JOBS.items() if isinstance(config, item[1].Config))


def _choices(config: AnyConfig) -> tuple[str, ...]:
  """Values of `learn_from` that the job allows."""
  (field,) = [f for f in dataclasses.fields(config) if f.name == "learn_from"]
  return field.metadata["limits"].choices


def settings(config: AnyConfig) -> Finding:
  """Agreement of the settings with an earlier run in the work directory."""
  workdir = Path(config.workdir)
  if not job_run.has_begun(workdir):
    text = f"The flags fit together; {workdir} holds no run yet."
    return Finding(Level.FINE, text)
  try:
    job_run.check_config(config, workdir / job_run.CONFIG)
  except ValueError as error:
    return Finding(Level.WRONG, f"{error}.")
  return Finding(
    Level.FINE, f"The flags fit together, and agree with the run in {workdir}."
  )


def examples(datasets: stages.Datasets) -> Iterator[Finding]:
  """Numbers of images and classes; rare and missing classes."""
  training = datasets.training
  shape = " x ".join(map(str, training.image_shape))
  yield Finding(
    Level.FINE,
    f"Data: {training.num_examples} training and {datasets.queries.num_examples} test "
    f"images of {shape}, {training.num_classes} classes, "
    f"{_place_of(training)}.",
  )
  if not isinstance(training, data.MemoryBatches):
    return
  labels = np.asarray(training.source.labels)
  counts = np.bincount(labels[labels >= 0], minlength=training.num_classes)
  if not counts.all():
    absent = ", ".join(map(str, np.flatnonzero(counts == 0)[:10]))
    yield Finding(
      Level.WARNING, f"No training image has the class {absent}: check --train_split."
    )
  elif counts.max() > 10 * counts.min():
    yield Finding(
      Level.WARNING,
      f"Classes have between {counts.min()} and {counts.max()} training images: the "
      "accuracy says little about rare classes.",
    )


def _place_of(training: data.Batches) -> str:
  """Place of the training images, and their memory on each device."""
  if not isinstance(training, data.MemoryBatches):
    return "streamed from disk"
  shared = parallel.share(
    training.resident, jax.local_devices(), rows_of=training.row_arrays
  )
  parts = "one copy" if shared.in_axes is None else "a part"
  return f"kept on the devices, {parts} of {shared.bytes_each / 2**20:.1f} MiB on each"


def devices() -> Finding:
  """Devices on which training runs."""
  found = jax.local_devices()
  kinds = sorted({device.device_kind for device in found})
  text = f"Devices: {len(found)} x {', '.join(kinds)} ({found[0].platform})."
  return Finding(Level.FINE, text)


def batch_scope(batch_size: int, num_devices: int) -> Finding:
  """Number of rows of a step, per device and over all devices."""
  share = batch_size // num_devices
  text = (
    f"A step has {batch_size} rows, {share} on each of {num_devices} devices; pairs "
    "are taken over all of them."
  )
  if share < 8:
    hint = "Fewer than 8 rows per device: the device will be idle most of the time."
    return Finding(Level.WARNING, f"{text} {hint}")
  if batch_size < 32:
    hint = "Fewer than 32 rows say little about neighbours: raise --batch_size."
    return Finding(Level.WARNING, f"{text} {hint}")
  return Finding(Level.FINE, text)


def no_teacher(config: AnyConfig) -> Finding:
  """Note that checks of the teacher were skipped, and how to run them."""
  name = config.learn_from
  order = flow_settings.TEACHERS if name == "auxiliary" else (name,)
  return Finding(
    Level.SKIPPED,
    f"No trained network of the stage {name} is in {config.workdir}: its accuracy and "
    "taps, and the student's first losses and gradients, were not checked. Train it "
    f"first (flowkd train {_job(config)[0]} ... --stages={','.join(order)}), then run "
    "flowkd doctor again.",
  )
