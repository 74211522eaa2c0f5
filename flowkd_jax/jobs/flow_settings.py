"""Settings of `jobs.information_flow`: presets of data sets, recipes and checks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flowkd_jax import capture
from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import methods
from flowkd_jax import pooling
from flowkd_jax import teacher_cache
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import layer_matching
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import optimizers
from flowkd_jax.jobs import places
from flowkd_jax.jobs import pretrained
from flowkd_jax.jobs import settings

__all__ = [
  "BASELINES",
  "LAST_TAP_FROM",
  "ORDER",
  "PRESETS",
  "RECIPES",
  "RECORDED",
  "SOURCES",
  "STAGES",
  "TEACHERS",
  "Config",
  "configure",
]

STAGES = ("teacher", "student_labels", "auxiliary_labels", "auxiliary", "student")
# Stages whose networks are teachers of later stages.
TEACHERS = ("teacher", "auxiliary_labels", "auxiliary")
RECORDED = "recorded"
SOURCES = ("auxiliary", "teacher", RECORDED)
BASELINES = ("student_kd", "student_hint", "student_pkt")
# Stages of students that learn from a teacher.
_TAUGHT = (*BASELINES, STAGES[-1])
# All stages, in the order of the results table.
ORDER = (*STAGES[:-1], *_TAUGHT)
LAST_TAP_FROM = ("tap", *methods.POSTERIORS)
_EPOCHS = tuple(f"{stage}_epochs" for stage in STAGES)
_check_kernel = kernels.as_kernel  # a field below has the name of the module
_KERNELS = (
  "cosine, student_t, rbf, adaptive_rbf, cauchy, von_mises_fisher; a parameter follows "
  "a colon, as in von_mises_fisher:8"
)
_NETWORKS = ("teacher_network", "auxiliary_network", "student_network")


@dataclasses.dataclass(frozen=True)
class Config(
  settings.AdamSettings, settings.TeacherSettings, settings.MicroBatchSettings
):
  """Settings with the paper's defaults. `configure` adapts them to a data set."""

  stages: tuple[str, ...] = fields.setting(
    STAGES,
    "Stages to run, in this order. student_kd, student_hint and student_pkt "
    "run only if they are named.",
    choices=ORDER,
  )
  recipe: str = fields.setting(
    "paper",
    "Preset of the student's training; flags that you give override it. paper: "
    "settings of the paper. posterior: better results on CIFAR-10, without labels. "
    "labelled: posterior with labels. posterior and labelled use no random crops in "
    "any stage; they were tuned with --auxiliary_checkpoint.",
    choices=("paper", "posterior", "labelled"),
  )
  teacher_network: str = fields.setting("resnet18", f"Teacher: {networks.DESCRIPTION}.")
  auxiliary_network: str = fields.setting(
    "cnn1:16",
    "Auxiliary teacher, usually a wider network of the student's architecture: "
    f"{networks.DESCRIPTION}.",
  )
  student_network: str = fields.setting("cnn1:8", f"Student: {networks.DESCRIPTION}.")
  auxiliary_checkpoint: str | None = fields.setting(
    None,
    "File with PyTorch weights (.npz) of the auxiliary teacher; replaces the stages "
    "teacher, auxiliary_labels and auxiliary.",
    place=places.FILE,
  )
  networks_from: str | None = fields.setting(
    None,
    "Work directory of another run. Its finished stages among "
    f"{', '.join(TEACHERS)} are used instead of training them again.",
    place=places.FOLDER,
  )
  teacher_epochs: str = fields.setting(
    "50@1e-3,30@1e-4",
    "Epochs and learning rates of Adam, phase after phase, in the stage "
    "teacher: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=("teacher",),
  )
  student_labels_epochs: str = fields.setting(
    "50@1e-3",
    "Epochs and learning rates of Adam, phase after phase, in the stage "
    "student_labels: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=("student_labels",),
  )
  auxiliary_labels_epochs: str = fields.setting(
    "50@1e-3,30@1e-4",
    "Epochs and learning rates of Adam, phase after phase, in the stage "
    "auxiliary_labels: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=("auxiliary_labels",),
  )
  auxiliary_epochs: str = fields.setting(
    "30@1e-3,10@1e-4",
    "Epochs and learning rates of Adam, phase after phase, in the stage "
    "auxiliary: EPOCHS@RATE,EPOCHS@RATE,...",
    stages=("auxiliary",),
  )
  student_epochs: str = fields.setting(
    "50@1e-3",
    "Epochs and learning rates of Adam, phase after phase, in the stages "
    "student, student_kd, student_hint and student_pkt: "
    "EPOCHS@RATE,EPOCHS@RATE,...",
    stages=_TAUGHT,
  )
  flow_weight_init: float = fields.setting(
    100.0,
    "Loss weight of intermediate taps in the first epoch.",
    least=0,
    stages=("student",),
  )
  flow_weight_gamma: float = fields.setting(
    0.7,
    "Factor by which the loss weight of intermediate taps changes per epoch; gamma in "
    "the paper.",
    above=0,
    most=1,
    stages=("student",),
  )
  schedule_by_step: bool = fields.setting(
    False,
    "Update the loss weight of intermediate taps at every step instead of every epoch.",
    stages=("student",),
  )
  normalize_flow_weights: bool = fields.setting(
    False,
    "Divide the loss weights of the student's taps by their sum, at every step.",
    stages=("student",),
  )
  matching: str = fields.setting(
    "probabilities",
    "Quantity that student and teacher have to match. probabilities: conditional "
    "probabilities between the rows of a batch, as in the paper. quadratic: quadratic "
    "mutual information with the labels.",
    choices=methods.MATCHINGS,
    stages=("auxiliary", "student"),
  )
  kernels: tuple[str, ...] = fields.setting(
    ("cosine", "student_t"),
    "Kernels of the conditional probabilities. The losses of several kernels are "
    f"summed. Kernels: {_KERNELS}.",
    check_word=_check_kernel,
    stages=("auxiliary", "student"),
  )
  last_tap_kernels: tuple[str, ...] = fields.setting(
    (),
    "Kernels for the student's last tap. Without the flag: the value of --kernels. "
    f"Kernels: {_KERNELS}.",
    check_word=_check_kernel,
    stages=("student",),
  )
  divergence: str = fields.setting(
    "jeffreys",
    "Divergence between conditional probabilities of student and teacher: "
    f"{', '.join(information.DIVERGENCES)}, or smoothed_kl:EPSILON.",
    check_word=information.as_divergence,
    stages=("auxiliary", "student"),
  )
  learn_from: str = fields.setting(
    "auxiliary",
    "Source of the teacher's outputs: auxiliary for the auxiliary teacher; teacher for "
    "the network of the stage teacher; recorded for outputs in the folder "
    "--teacher_cache, which a network of any framework can have written.",
    choices=SOURCES,
    stages=("student",),
  )
  layer_map: str = fields.setting(
    "",
    "Teacher tap for each student tap: pairs STUDENT_TAP:TEACHER_TAP,...; auto (most "
    "similar taps by linear CKA, in order); auto_debiased (most similar taps by "
    "debiased linear CKA, for few examples or unequal widths); kappa (nearest "
    "information flow); or a file layer_map.json of an earlier run. Without the flag: "
    "taps with equal names; if names differ, one to one in order. auto, auto_debiased "
    "and kappa compare the student of the stage student_labels if the stage is "
    "finished, otherwise an untrained student.",
    stages=("student",),
  )
  last_tap_from: str = fields.setting(
    "tap",
    "Target of the student's last tap: tap for the teacher's tap, posterior for the "
    "teacher's class probabilities, labelled_posterior for the mean of class "
    "probabilities and one-hot labels.",
    choices=LAST_TAP_FROM,
    stages=("student",),
  )
  teacher_pooling: str | None = fields.setting(
    None,
    "Pooling that reduces teacher taps with positions (tokens, feature maps) to one "
    "vector per image. Without the flag: no pooling.",
    choices=tuple(pooling.POOLINGS),
    stages=_TAUGHT,
  )
  authors: bool = fields.setting(
    False,
    "Compute the loss exactly as the published code does, including the diagonal, the "
    "mean and the epsilons.",
    stages=("auxiliary", "student"),
  )
  label_weight: float = fields.setting(
    0.0,
    "Weight of the cross-entropy with the labels in the student's loss.",
    least=0,
    stages=("student",),
  )
  reset_optimizer: bool = fields.setting(
    True,
    "Reset Adam's moments at every epoch of the student, as the authors' code does.",
    stages=("student",),
  )
  average: float = fields.setting(
    0.0,
    "Decay of the exponential moving average of the student's weights, such as 0.999; "
    "0 for no average.",
    least=0,
    below=1,
    stages=("student",),
  )
  kd_temperature: float = fields.setting(
    2.0,
    "Temperature of the softened logits in the stage student_kd.",
    above=0,
    stages=("student_kd",),
  )

  @property
  def used_networks(self) -> tuple[str, ...]:
    """Names of the settings that hold the networks of the stages to run."""
    roles = {name.partition("_")[0] for name in self.stages}
    if "student" in self.stages and self.learn_from != RECORDED:
      roles.add(self.learn_from)
    if {*BASELINES} & {*self.stages}:
      roles.add("auxiliary")
    if "auxiliary" in self.stages:
      roles.add("teacher")
    if self.auxiliary_checkpoint is not None:
      roles.discard("teacher")
    return tuple(name for name in _NETWORKS if name.partition("_")[0] in roles)


# Differences from the paper's settings, by data set.
PRESETS: dict[str, dict[str, Any]] = {
  "digits": {
    "teacher_network": "digits_resnet:32",
    "auxiliary_network": "digits_cnn:16",
    "student_network": "digits_cnn:4",
    "batch_size": 64,
    "teacher_epochs": "20@1e-3,10@1e-4",
    "student_labels_epochs": "40@1e-3",
    "auxiliary_labels_epochs": "20@1e-3",
    "auxiliary_epochs": "20@1e-3",
    "student_epochs": "40@1e-3",
    "flip": False,
    "crop_padding": 0,
  },
  "mnist": {"flip": False, "crop_padding": 2, "image_size": 32},
}

_POSTERIOR: dict[str, Any] = {
  "last_tap_from": methods.POSTERIOR,
  "last_tap_kernels": ("von_mises_fisher", "student_t"),
  "student_epochs": "50@1e-2",
  "learning_rate_decay": "cosine",
  "adam_beta2": 0.99,
  "reset_optimizer": False,
  "normalize_flow_weights": True,
  "crop_padding": 0,
}
# Differences from the paper's settings, by recipe.
RECIPES: dict[str, dict[str, Any]] = {
  "paper": {},
  "posterior": _POSTERIOR,
  "labelled": _POSTERIOR | {"last_tap_from": methods.LABELLED_POSTERIOR, "flip": False},
}


def configure(**given: Any) -> Config:
  """Make a configuration from recipe, data set's preset and the given settings.

  Raises:
    ValueError: If a setting is wrong. The message names the setting, the expected
      values and the value given.
  """
  recipe = RECIPES.get(given.get("recipe", Config.recipe), {})
  preset = PRESETS.get(given.get("dataset", Config.dataset), {})
  config = fields.configured(Config, recipe, preset, given)
  settings.check_settings(config, _NETWORKS)
  if config.learn_from == RECORDED:
    _check_recorded(config)
  if config.networks_from is not None:
    pretrained.check(config.networks_from, config, TEACHERS)
  if config.auxiliary_checkpoint is not None:
    _check_weights(config)
  _check_unread(config, given)
  _check_kernels(config)
  for name in _EPOCHS:
    optimizers.phases(getattr(config, name), f"--{name}")
  if "student" in config.stages and config.layer_map not in layer_matching.FOUND:
    layer_matching.given_layers(config.layer_map, *_taps(config))
  return config


def _taps(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Taps of the student and of its teacher."""
  if config.learn_from == RECORDED:
    described = teacher_cache.describe_cache(config.teacher_cache or "")
    source = teacher_cache.recorded_teacher(described).model
  else:
    source = networks.by_name(getattr(config, f"{config.learn_from}_network"))
  models = networks.by_name(config.student_network), source
  student, teacher = (tuple(capture.adapt(model).taps) for model in models)
  return student, teacher


def _check_weights(config: Config) -> None:
  if config.learn_from == "teacher":
    raise ValueError(
      "--learn_from: expected auxiliary with --auxiliary_checkpoint, which replaces "
      "the stage teacher, got teacher"
    )
  if config.networks_from is not None:
    raise ValueError(
      "--networks_from: expected without --auxiliary_checkpoint, as both provide the "
      "auxiliary; got both"
    )
  imported_weights.check(
    "--auxiliary_checkpoint",
    config.auxiliary_checkpoint or "",
    "--auxiliary_network",
    config.auxiliary_network,
  )


def _check_unread(config: Config, given: Mapping[str, Any]) -> None:
  """Raise ValueError for flags that have no effect with the other settings."""
  if config.authors and config.matching == "quadratic":
    raise ValueError(
      "--authors: expected with --matching=probabilities, the only matching of the "
      "authors' code, got it with --matching=quadratic"
    )
  if config.matching == "quadratic" and "divergence" in given:
    raise ValueError(
      "--divergence: expected with --matching=probabilities, got it with "
      "--matching=quadratic, which compares no probabilities"
    )
  if config.learn_from == RECORDED and config.teacher_pooling is not None:
    raise ValueError(
      "--teacher_pooling: expected with a network to learn from, got it with "
      f"--learn_from={RECORDED}; record pooled taps instead"
    )


def _check_recorded(config: Config) -> None:
  if config.teacher_mixed_precision:
    raise ValueError(
      "--teacher_mixed_precision: expected with a network to learn from, got it with "
      f"--learn_from={RECORDED}, whose outputs are there already"
    )
  if config.teacher_cache is None:
    raise ValueError(
      f"--learn_from={RECORDED}: expected --teacher_cache, the folder of the outputs"
    )
  if config.layer_map in layer_matching.FOUND:
    raise ValueError(
      f"--layer_map: expected pairs with --learn_from={RECORDED}, got "
      f"{config.layer_map}, which needs the teacher network to compare layers"
    )
  try:
    teacher_cache.describe_cache(config.teacher_cache)
  except (ValueError, OSError) as error:
    raise ValueError(f"--teacher_cache: {error}") from None


def _check_kernels(config: Config) -> None:
  for flag in ("kernels", "last_tap_kernels") if config.authors else ():
    for kernel in getattr(config, flag):
      kernels.as_kernel(kernel, authors=True, name=f"--{flag}")
