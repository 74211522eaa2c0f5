"""What all experiments share: settings, their checks, networks and optimizers.

An experiment adds its own settings to `Settings`; `course` runs its stages.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax

from experiments import launch
from experiments import networks
from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import models
from flowkd_jax import schedules

NETWORK_NAMES = f"{networks.NAMES}; {networks.OTHERS}"
MEASURES = ("flow", "retrieval")
LEARNING_RATE_DECAYS = ("constant", "cosine")


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings of every experiment."""

  dataset: str = launch.setting(
    "digits",
    "digits (scikit-learn's, nothing to download) or any image classification set of "
    "tensorflow-datasets: cifar10, cifar100, mnist, stl10, caltech_birds2011, ...",
  )
  train_split: str = launch.setting(
    "train", "Images to train on; with train[:90%] the rest can choose settings."
  )
  test_split: str = launch.setting(
    "test", "Images to measure on: test, or train[90%:] to choose settings."
  )
  validation_split: str | None = launch.setting(
    None, "Further images on which accuracy is measured, beside the test images."
  )
  workdir: str = launch.setting(
    "", "Where everything is written; resumed if it exists."
  )
  data_dir: str | None = launch.setting(
    None, "Where tensorflow-datasets are prepared (default: its own default)."
  )
  seed: int = launch.setting(0, "Seed of weights, order and augmentation.")
  image_size: int | None = launch.setting(
    None, "Side to which images are resized and cropped (default: as they are)."
  )
  image_key: str | None = launch.setting(
    None,
    "Feature of the data set that holds the image (default: found by its type); needed "
    "where there are several.",
  )
  label_key: str | None = launch.setting(
    None, "Feature that holds the class label (default: found by its type)."
  )
  batch_size: int = launch.setting(128, "Rows of a step, over all devices.")
  learning_rate_decay: str = launch.setting(
    "constant",
    "Within a phase of training: constant, or cosine, from the phase's rate to 0.",
  )
  adam_beta2: float = launch.setting(
    0.999, "Decay of Adam's mean of squared gradients."
  )
  flip: bool = launch.setting(True, "Random horizontal flips.")
  crop_padding: int = launch.setting(
    4, "Random crops after padding by so many pixels; 0 for none."
  )
  mixed_precision: bool = launch.setting(
    False, "Networks compute in bfloat16; losses stay in float32."
  )
  flow_examples: int = launch.setting(
    2000, "Training examples on which information flow is measured."
  )
  measure: tuple[str, ...] = launch.setting(
    MEASURES,
    "What is measured besides accuracy: flow, at epochs; at the end retrieval, and "
    "accuracy by nearest centroids.",
  )
  measure_every: int = launch.setting(
    1, "Epochs between measurements of information flow and test accuracy; 0 for none."
  )
  telemetry: bool = launch.setting(
    True,
    "At each such measurement also look at gradients by loss term, likeness of taps to "
    "the teacher's, and dead units.",
  )
  checkpoint_seconds: float = launch.setting(60.0, "Seconds between checkpoints.")
  teacher_cache: str | None = launch.setting(
    None,
    "Folder in which outputs of frozen teachers are kept, and read again by whatever "
    "learns from the same teacher on the same images (data, seed, augmentation).",
  )
  teacher_cache_dtype: str = launch.setting(
    "float32", f"Type they are stored in: {', '.join(data.CACHE_DTYPES)}."
  )
  teacher_cache_gib: float = launch.setting(
    20.0, "What each teacher may take there, in GiB; later epochs are not kept."
  )
  memory_gib: float = launch.setting(
    4.0, "Data sets up to so many GiB are kept on the devices; larger ones stream."
  )

  @property
  def shared_by_devices(self) -> tuple[str, int, str]:
    """What devices share in a step: the setting, its value, what they are."""
    return "batch_size", self.batch_size, "rows"


def check_settings(settings: Settings, flags: Sequence[str]) -> None:
  """Raises ValueError, naming the flag, if a shared setting cannot be right.

  Args:
    settings: The settings.
    flags: Names of the settings that name networks.
  """
  if not settings.workdir:
    raise ValueError("--workdir: expected a folder to write to, got none")
  check_choice(
    "--learning_rate_decay", settings.learning_rate_decay, LEARNING_RATE_DECAYS
  )
  if not 0 <= settings.adam_beta2 < 1:
    raise ValueError(f"--adam_beta2: expected in [0, 1), got {settings.adam_beta2}")
  for name in ("flow_examples", "batch_size"):
    check_least(settings, name, 1)
  for measure in settings.measure:
    check_choice("--measure", measure, MEASURES)
  for name in ("seed", "measure_every", "crop_padding", "checkpoint_seconds"):
    check_least(settings, name, 0)
  check_choice(
    "--teacher_cache_dtype", settings.teacher_cache_dtype, (*data.CACHE_DTYPES,)
  )
  check_positive(settings, "teacher_cache_gib")
  for name in flags:
    try:
      networks.check_declares_taps(networks.by_name(getattr(settings, name)))
    except ValueError as error:
      raise ValueError(f"--{name}: {error}") from None


def check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
  """Raises ValueError unless the value is one of the choices."""
  if value not in choices:
    raise ValueError(f"{flag}: expected one of {', '.join(choices)}, got {value!r}")


def check_least(settings: Settings, name: str, least: int) -> None:
  """Raises ValueError if a number is below what it can be."""
  value = getattr(settings, name)
  if value < least:
    bound = "1 or more" if least else "0 or above"
    raise ValueError(f"--{name}: expected {bound}, got {value}")


def check_positive(settings: Settings, name: str) -> None:
  """Raises ValueError unless a number is above 0."""
  value = getattr(settings, name)
  if not value > 0:
    raise ValueError(f"--{name}: expected above 0, got {value}")


def phases(text: str, flag: str) -> list[tuple[int, float]]:
  """`"50@1e-3,30@1e-4"` as [(50, 0.001), (30, 0.0001)].

  Raises:
    ValueError: If the text is of another form.
  """
  try:
    pairs = [part.split("@") for part in text.split(",")]
    result = [(int(epochs), float(rate)) for epochs, rate in pairs]
    if any(epochs < 1 or not rate > 0 for epochs, rate in result):
      raise ValueError
  except ValueError:
    raise ValueError(
      f"{flag}: expected EPOCHS@LEARNING_RATE, separated by commas, such as "
      f"50@1e-3,30@1e-4; got {text!r}"
    ) from None
  return result


def number_of_epochs(text: str) -> int:
  """Epochs of all phases."""
  return sum(epochs for epochs, _ in phases(text, "epochs"))


def network(
  settings: Settings, name: str, num_classes: int, axis_name: str | None = "batch"
) -> capture.AnyModel:
  """The network of that name, for training."""
  return networks.by_name(
    name,
    num_classes=num_classes,
    dtype=jnp.bfloat16 if settings.mixed_precision else jnp.float32,
    axis_name=axis_name,
  )


def staged_network(
  settings: Settings, flag: str, num_classes: int
) -> models.CifarResNet:
  """The network that a flag names, if it can be taken apart at its stages.

  Raises:
    ValueError: If it cannot; names the flag.
  """
  name = getattr(settings, flag)
  found = network(settings, name, num_classes)
  if not isinstance(found, models.CifarResNet):
    raise ValueError(
      f"--{flag}: expected resnetDEPTH:WIDTH with a depth of 6n + 2, such as resnet20, "
      f"got {name!r}"
    )
  return found


def adam(
  epochs: str,
  *,
  steps_per_epoch: int,
  decay: str = "constant",
  beta2: float = 0.999,
  reset_each_epoch: bool = False,
) -> optax.GradientTransformation:
  """Adam with a learning rate per phase.

  Args:
    epochs: Phases as in the flags: "50@1e-3,30@1e-4".
    steps_per_epoch: Steps in an epoch.
    decay: Of the learning rate within each phase: "constant", or "cosine" to 0.
    beta2: Decay of the mean of squared gradients.
    reset_each_epoch: Forget the moments at every epoch.
  """
  moments = optax.scale_by_adam(b2=beta2)
  if reset_each_epoch:
    moments = schedules.reset_every(moments, steps_per_epoch)
  rates = _learning_rates(epochs, steps_per_epoch, decay)
  return optax.chain(moments, optax.scale_by_learning_rate(rates))


def sgd(
  epochs: str,
  *,
  steps_per_epoch: int,
  decay: str = "constant",
  momentum: float = 0.9,
  weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """Stochastic gradient descent with Nesterov's momentum and a rate per phase.

  As in PyTorch, weight decay is added to the gradient, of every parameter.

  Args:
    epochs: Phases as in the flags: "150@0.1,50@0.01".
    steps_per_epoch: Steps in an epoch.
    decay: Of the learning rate within each phase: "constant", or "cosine" to 0.
    momentum: Weight of the earlier gradients.
    weight_decay: Factor of the parameters in the gradient.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(momentum, nesterov=True),
    optax.scale_by_learning_rate(_learning_rates(epochs, steps_per_epoch, decay)),
  )


def _learning_rates(epochs, steps_per_epoch, decay):
  parts = phases(epochs, "epochs")
  rates = [learning_rate(rate, n * steps_per_epoch, decay) for n, rate in parts]
  ends = np.cumsum([n for n, _ in parts])[:-1]
  return optax.join_schedules(rates, (ends * steps_per_epoch).tolist())


def learning_rate(rate: float, steps: int, decay: str) -> optax.Schedule:
  """A rate that stays ("constant") or falls to 0 in so many steps ("cosine")."""
  if decay == "cosine":
    return optax.cosine_decay_schedule(rate, steps)
  return optax.constant_schedule(rate)
