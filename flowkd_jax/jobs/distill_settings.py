"""Settings of `jobs.distill`: presets of data sets and checks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flowkd_jax import methods
from flowkd_jax import teacher_cache
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import loss_terms
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import optimizers
from flowkd_jax.jobs import places
from flowkd_jax.jobs import pretrained
from flowkd_jax.jobs import settings

__all__ = [
  "ORDER",
  "PRESETS",
  "RECORDED",
  "SIMKD",
  "STAGES",
  "Config",
  "configure",
  "described_teacher",
]

STAGES = ("teacher", "student_labels", "student")
SIMKD = "student_simkd"
# All stages, in the order of the results table.
ORDER = (*STAGES, SIMKD)
RECORDED = "recorded"
_NETWORKS = ("teacher_network", "student_network")
_STEPS = "150@0.05,30@5e-3,30@5e-4,30@5e-5"
_EPOCHS = (
  "Epochs and learning rates of SGD for each phase of {}: EPOCHS@RATE,... For a step "
  "decay, write one phase for each rate."
)


@dataclasses.dataclass(frozen=True)
class Config(
  settings.SgdSettings, settings.TeacherSettings, settings.MicroBatchSettings
):
  """Settings with RepDistiller's defaults. `configure` adapts them to a data set."""

  stages: tuple[str, ...] = fields.setting(
    STAGES,
    f"Stages to run, in this order. {SIMKD} runs only if it is named.",
    choices=ORDER,
  )
  teacher_network: str = fields.setting("resnet56", f"Teacher: {networks.DESCRIPTION}.")
  student_network: str = fields.setting("resnet20", f"Student: {networks.DESCRIPTION}.")
  losses: str = fields.setting(
    "kd",
    "Losses of the student in addition to the labels, as NAME:WEIGHT,... with options "
    "in parentheses and taps in brackets: "
    "kd(temperature=2):9,pkt[tap:teacher_tap]:300. "
    f"Names: {', '.join(methods.loss_names())}. Instead of tap pairs, the brackets may "
    f"hold a tap role: {', '.join(methods.TAP_ROLES)}. A weight or numeric option may "
    "be a schedule, such as warmup(1,20), cosine(1,150,240) or "
    "critical_period(100,0.7).",
    stages=("student",),
  )
  losses_file: str | None = fields.setting(
    None,
    "TOML file with the losses, instead of --losses: one table [[losses]] for each "
    "loss, with the keys loss, weight, options and taps.",
    place=places.FILE,
    stages=("student",),
  )
  label_weight: float = fields.setting(
    1.0,
    "Weight of the cross-entropy with the labels in the stage student. RepDistiller "
    "uses 0.1 with --losses=kd:0.9, and 1 with its other losses.",
    least=0,
    stages=("student",),
  )
  label_smoothing: float = fields.setting(
    0.0,
    "Share of the target of every cross-entropy with the labels that is spread evenly "
    "over all classes.",
    least=0,
    most=1,
    stages=STAGES,
  )
  learn_from: str = fields.setting(
    "teacher",
    "Source of the teacher's outputs: teacher for the network of the stage teacher; "
    "recorded for outputs in the folder --teacher_cache, which a network of any "
    "framework can have written.",
    choices=("teacher", RECORDED),
  )
  networks_from: str | None = fields.setting(
    None,
    "Work directory of another run. Its finished stage teacher is used instead of "
    "training a teacher.",
    place=places.FOLDER,
  )
  teacher_checkpoint: str | None = fields.setting(
    None,
    "File with PyTorch weights (.npz) of the teacher, which is then not trained.",
    place=places.FILE,
  )
  batch_size: int = fields.setting(
    64, "Rows (images) of a training step, over all devices.", least=1
  )
  teacher_epochs: str = fields.setting(
    _STEPS, _EPOCHS.format("the stage teacher"), stages=("teacher",)
  )
  student_epochs: str = fields.setting(
    _STEPS, _EPOCHS.format("the stages of students"), stages=ORDER[1:]
  )

  @property
  def tables(self) -> loss_terms.Tables:
    """Losses with their weights, options and taps."""
    if self.losses_file is not None:
      return loss_terms.of_file("--losses_file", self.losses_file)
    return loss_terms.of_flag("--losses", self.losses)

  @property
  def used_networks(self) -> tuple[str, ...]:
    """Names of the settings that hold the networks of the stages to run."""
    used = {name.partition("_")[0] for name in self.stages}
    if "student" in self.stages and self.learn_from != RECORDED:
      used.add("teacher")
    return tuple(name for name in _NETWORKS if name.partition("_")[0] in used)

  def resolved(self) -> dict[str, Any]:
    """Settings by name; the losses are tables, also if --losses gave them."""
    return super().resolved() | {"losses": self.tables, "losses_file": None}


PRESETS: dict[str, dict[str, Any]] = {
  "digits": {
    "teacher_network": "digits_cnn:16",
    "student_network": "digits_cnn:4",
    "teacher_epochs": "15@0.05,5@5e-3",
    "student_epochs": "15@0.05,5@5e-3",
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
  for name in ("teacher_epochs", "student_epochs"):
    optimizers.phases(getattr(config, name), f"--{name}")
  _check_losses(config, given)
  if SIMKD in config.stages:
    _check_simkd(config)
  if config.learn_from == RECORDED:
    _check_recorded(config)
  if config.networks_from is not None:
    pretrained.check(config.networks_from, config, ("teacher",))
  if config.teacher_checkpoint is not None:
    _check_checkpoint(config)
  return config


def _check_losses(config: Config, given: Mapping[str, Any]) -> None:
  if config.losses_file is not None and "losses" in given:
    raise ValueError(
      "--losses: expected without --losses_file, which gives all losses; got both"
    )
  flag = "--losses" if config.losses_file is None else "--losses_file"
  ours, theirs = _taps(config)
  for table in config.tables:
    pairs = table["taps"]
    if isinstance(pairs, str):
      continue
    for pair in pairs:
      for side, tap, known in zip(
        ("student", "teacher"), pair, (ours, theirs), strict=True
      ):
        if tap not in known:
          raise ValueError(
            f"{flag}: {table['loss']}: expected taps of the {side}, of "
            f"{', '.join(known)}, got {tap}"
          )


def _taps(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Names of the layers of student and teacher that losses can read."""
  if config.learn_from == RECORDED:
    if config.teacher_cache is None:
      return (), ()
    theirs = described_teacher(config).model
  else:
    theirs = networks.by_name(config.teacher_network)
  student, teacher = (
    methods.layer_names(model)
    for model in (networks.by_name(config.student_network), theirs)
  )
  return student, (*teacher, *methods.POSTERIORS)


def described_teacher(config: Config) -> methods.Network:
  """Placeholder for the teacher whose outputs are recorded.

  Raises:
    ValueError: If the folder holds no recorded outputs.
  """
  try:
    return teacher_cache.recorded_teacher(
      teacher_cache.describe_cache(config.teacher_cache or "")
    )
  except (ValueError, OSError) as error:
    raise ValueError(f"--teacher_cache: {error}") from None


def _check_simkd(config: Config) -> None:
  """Raise ValueError if the stage student_simkd cannot run with the settings."""
  if config.learn_from == RECORDED:
    raise ValueError(
      f"--stages: expected no {SIMKD} with --learn_from={RECORDED}: the stage reuses "
      "the teacher's classifier, which recorded outputs do not contain; leave the "
      "stage out"
    )


def _check_recorded(config: Config) -> None:
  if config.teacher_cache is None:
    raise ValueError(
      f"--learn_from={RECORDED}: expected --teacher_cache, the folder of the outputs"
    )
  for name in ("networks_from", "teacher_checkpoint"):
    if getattr(config, name) is not None:
      raise ValueError(
        f"--{name}: expected with --learn_from=teacher, got it with "
        f"--learn_from={RECORDED}, which needs no network"
      )
  if config.teacher_mixed_precision:
    raise ValueError(
      "--teacher_mixed_precision: expected with a network to learn from, got it with "
      f"--learn_from={RECORDED}, whose outputs are there already"
    )
  described_teacher(config)


def _check_checkpoint(config: Config) -> None:
  if config.networks_from is not None:
    raise ValueError(
      "--networks_from: expected without --teacher_checkpoint, as both provide the "
      "teacher; got both"
    )
  imported_weights.check(
    "--teacher_checkpoint",
    config.teacher_checkpoint or "",
    "--teacher_network",
    config.teacher_network,
  )
