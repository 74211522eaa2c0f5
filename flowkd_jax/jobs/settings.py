"""Settings that all jobs share, their checks, and the networks that they describe.

A job adds its own settings to `Settings`; `job_run` runs its stages.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import parallel
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import places
from flowkd_jax.teacher_cache import CACHE_DTYPES

__all__ = [
  "LEARNING_RATE_DECAYS",
  "MEASURES",
  "PARALLELISMS",
  "AdamSettings",
  "MicroBatchSettings",
  "Settings",
  "SgdSettings",
  "TeacherSettings",
  "applied_teacher",
  "check_settings",
  "network",
  "staged_network",
]

MEASURES = ("flow", "retrieval")
LEARNING_RATE_DECAYS = ("constant", "cosine")
PARALLELISMS = ("pmap", "jit", "jit_sharded")


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings that every job reads."""

  dataset: str = fields.setting(
    "digits",
    "Data set: digits (part of scikit-learn, no download), or an image "
    "classification set of tensorflow-datasets, such as cifar10, cifar100, "
    "mnist, stl10, caltech_birds2011.",
  )
  train_split: str = fields.setting(
    "train",
    "Images to train on. To tune settings, train on train[:90%] and test on"
    " train[90%:].",
  )
  test_split: str = fields.setting(
    "test",
    "Images on which final accuracy and retrieval are measured, such as test,"
    " or train[90%:] to tune settings.",
  )
  validation_split: str | None = fields.setting(
    None, "Further images on which accuracy is measured, in addition to --test_split."
  )
  workdir: str = fields.setting(
    "",
    "Folder for checkpoints, metrics, networks, results and pictures. If it "
    "holds an interrupted run with the same settings, that run is resumed.",
    required=True,
    place=places.NEW_FOLDER,
  )
  data_dir: str | None = fields.setting(
    None,
    "Folder with prepared data sets of tensorflow-datasets. Without the flag: the "
    "default folder of tensorflow-datasets.",
    place=places.PERHAPS_FOLDER,
  )
  seed: int = fields.setting(
    0, "Seed of initial weights, order of examples, and augmentation.", least=0
  )
  image_size: int | None = fields.setting(
    None,
    "Side in pixels to which images are resized and cropped. Without the "
    "flag: images keep their size.",
    least=1,
  )
  image_key: str | None = fields.setting(
    None,
    "Feature of the data set that holds the image. Without the flag: the only image "
    "feature; required if there are several.",
  )
  label_key: str | None = fields.setting(
    None,
    "Feature of the data set that holds the class label. Without the flag: the "
    "feature is found by its type.",
  )
  batch_size: int = fields.setting(
    128, "Number of rows (images) in a training step, over all devices.", least=1
  )
  learning_rate_decay: str = fields.setting(
    "constant",
    "Schedule of the learning rate within a phase of training: constant, or cosine for "
    "a cosine decay to 0.",
    choices=LEARNING_RATE_DECAYS,
  )
  flip: bool = fields.setting(True, "Flip training images horizontally at random.")
  crop_padding: int = fields.setting(
    4,
    "Pixels by which training images are padded before a random crop; 0 for no crops.",
    least=0,
  )
  mixed_precision: bool = fields.setting(
    False, "Compute networks in bfloat16. Losses are computed in float32."
  )
  flow_examples: int = fields.setting(
    2000, "Number of training examples on which information flow is measured.", least=1
  )
  measure: tuple[str, ...] = fields.setting(
    MEASURES,
    "Measurements in addition to accuracy. flow: information flow, at measured epochs; "
    "retrieval: retrieval and nearest-centroid accuracy, at the end of a stage. Empty: "
    "accuracy only.",
    choices=MEASURES,
    may_be_empty=True,
  )
  measure_every: int = fields.setting(
    1,
    "Epochs between measurements of information flow and test accuracy; 0 for none.",
    least=0,
  )
  diagnostics: bool = fields.setting(
    True,
    "At measured epochs, also log the gradient norm of each loss term, the similarity "
    "of student taps to teacher taps, and the share of dead units.",
  )
  checkpoint_seconds: float = fields.setting(
    60.0, "Seconds between checkpoints.", least=0
  )
  steps_per_call: int | None = fields.setting(
    None,
    "Maximum number of training steps in one call of the compiled program. "
    "Without the flag: 100 on accelerators, 1 on CPU.",
    least=1,
  )
  parallelism: str = fields.setting(
    "pmap",
    "Mapping of training steps over the devices. pmap: the same program runs on each "
    "device, with a part of the batch. jit: one program for the whole batch; needs a "
    "single process. jit_sharded: jit with a part of the frozen teacher on each "
    "device, for teachers that do not fit on one device. Results are equal up to "
    "rounding, except with dropout.",
    choices=PARALLELISMS,
  )
  memory_gib: float = fields.setting(
    4.0,
    "Size limit in GiB up to which the data sets are kept in device memory; larger "
    "data sets are streamed from disk. Every device holds one copy, which training "
    "and measuring share. If the copy takes more than half of the device memory, "
    "every device holds a part.",
    least=0,
  )

  @property
  def mode(self) -> parallel.Mode:
    """Mode of mapping steps over devices."""
    return "pmap" if self.parallelism == "pmap" else "jit"

  @property
  def axis_name(self) -> str | None:
    """Name of the mapped axis of methods and networks; None in mode "jit"."""
    return parallel.axis_of(self.mode)

  @property
  def augmentation(self) -> data.Augmentation:
    """Random changes of training images."""
    return data.Augmentation(flip=self.flip, padding=self.crop_padding)

  @property
  def shared_by_devices(self) -> tuple[str, int, str]:
    """Name, value and unit of the setting that is split over the devices."""
    return "batch_size", self.batch_size, "rows"

  @property
  def used_networks(self) -> tuple[str, ...]:
    """Names of the settings that hold the networks of the stages to run."""
    names = [field.name for field in dataclasses.fields(self)]
    return tuple(name for name in names if name.endswith("network"))

  def resolved(self) -> dict[str, Any]:
    """Settings by name, as written to `config.json`."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class AdamSettings(Settings):
  """Settings of jobs that train by Adam."""

  adam_beta2: float = fields.setting(
    0.999, "Decay of Adam's mean of squared gradients.", least=0, below=1
  )


@dataclasses.dataclass(frozen=True)
class MicroBatchSettings(Settings):
  """Settings of jobs whose steps can split the batch into micro-batches."""

  micro_batches: int = fields.setting(
    1,
    "Number of parts into which each device splits its rows of a batch, to save "
    "memory. Loss and gradient are computed for the whole batch, including all pairs "
    "of rows. Only the activations of one part are in memory; the forward pass is "
    "computed twice. BatchNorm uses the statistics of a part.",
    least=1,
  )

  @property
  def method_options(self) -> dict[str, Any]:
    """Arguments that all methods take: mapped axis and number of micro-batches."""
    return {"axis_name": self.axis_name, "micro_batches": self.micro_batches}


@dataclasses.dataclass(frozen=True)
class SgdSettings(Settings):
  """Settings of jobs that train by stochastic gradient descent."""

  momentum: float = fields.setting(0.9, "Momentum of SGD.", least=0, below=1)
  nesterov: bool = fields.setting(False, "Use Nesterov's momentum.")
  weight_decay: float = fields.setting(
    5e-4,
    "Weight decay of SGD. As in PyTorch, it is added to the gradient of every "
    "parameter, including BatchNorm, biases and parameters that losses learn.",
    least=0,
  )
  warmup_epochs: float = fields.setting(
    0.0,
    "Number of epochs of linear warm-up of the learning rate from 0; 0 for no warm-up.",
    least=0,
  )


@dataclasses.dataclass(frozen=True)
class TeacherSettings(Settings):
  """Settings of jobs with frozen teachers."""

  teacher_mixed_precision: bool = fields.setting(
    False,
    "Compute the frozen teacher in bfloat16, independently of the student. Losses are "
    "computed in float32.",
  )

  teacher_cache: str | None = fields.setting(
    None,
    "Folder for the cache of teacher outputs. Runs with equal teacher, data, seed and "
    "augmentation reuse the outputs instead of applying the teacher.",
    place=places.NEW_FOLDER,
  )
  teacher_cache_dtype: str = fields.setting(
    "float32",
    "Data type in which the teacher cache stores outputs.",
    choices=tuple(CACHE_DTYPES),
  )
  teacher_cache_gib: float = fields.setting(
    20.0,
    "Size limit in GiB for the cached outputs of each teacher. Outputs of epochs "
    "beyond the limit are computed but not stored.",
    above=0,
  )


def check_settings(settings: Settings, flags: Sequence[str]) -> None:
  """Raise ValueError, naming the flag, if a shared setting is wrong.

  Args:
    settings: The settings.
    flags: Names of the settings that hold networks.
  """
  if not settings.workdir:
    raise ValueError("--workdir: expected a folder to write to, got none")
  unread = ("teacher_cache_dtype", "teacher_cache_gib")
  if isinstance(settings, TeacherSettings) and settings.teacher_cache is None:
    for name in unread:
      if getattr(settings, name) != getattr(TeacherSettings, name):
        raise ValueError(f"--{name}: expected with --teacher_cache, got it alone")
  for name in flags:
    try:
      networks.check_declares_taps(networks.by_name(getattr(settings, name)))
    except ValueError as error:
      raise ValueError(f"--{name}: {error}") from None


def network(settings: Settings, name: str, num_classes: int) -> capture.AnyModel:
  """Network by its name, for training."""
  return networks.by_name(
    name,
    num_classes=num_classes,
    dtype=jnp.bfloat16 if settings.mixed_precision else jnp.float32,
    axis_name=settings.axis_name,
  )


def applied_teacher(
  settings: TeacherSettings, network: methods.Network
) -> methods.Network:
  """Frozen teacher in the precision that the settings ask for.

  Raises:
    ValueError: If that is bfloat16 and the network is not one of this package.
  """
  if not settings.teacher_mixed_precision:
    return network
  model = network.model
  if not isinstance(model, nn.Module) or not hasattr(model, "dtype"):
    raise ValueError(
      "--teacher_mixed_precision: expected a teacher that is a Linen module with the "
      f"field dtype, as those of this package are, got {type(model).__name__}; "
      "compute in bfloat16 within your function and leave the flag out"
    )
  return network._replace(model=model.clone(dtype=jnp.bfloat16))


def staged_network(
  settings: Settings, flag: str, num_classes: int
) -> models.CifarResNet:
  """Network that a flag names; it must be a network with stages.

  Raises:
    ValueError: If the network is not a CIFAR ResNet. The message names the flag.
  """
  name = getattr(settings, flag)
  found = network(settings, name, num_classes)
  if not isinstance(found, models.CifarResNet):
    raise ValueError(
      f"--{flag}: expected resnetDEPTH:WIDTH with a depth of 6n + 2, such as resnet20, "
      f"got {name!r}"
    )
  return found
