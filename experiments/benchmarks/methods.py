"""Cost of a step of each method, as a multiple of plain training.

    python -m experiments.benchmarks.methods

Plain training is a step of the same student on labels, with equally many images.
Methods of several students are compared with the widest student. Rounds of federated
learning are compared with as many steps of one network on the images of all clients.
All programs take turns in one process, so that a change in the machine's speed affects
all. The output is markdown.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import measurement
from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import networks

NUM_CLASSES = 10
# What has other networks and other batches, by the group that is compared.
PLAIN = {
  "student": "labels only",
  "ensemble": "labels only, widest student",
  "federated": "labels only, as many steps",
}


@dataclasses.dataclass(frozen=True)
class Config(measurement.TurnsConfig):
  """Settings of the benchmark; the sizes are those of the studies."""

  batch_size: int = fields.setting(64, "Rows of a step.", least=1)
  image_size: int = fields.setting(16, "Height and width of the images.", least=1)
  teacher_network: str = fields.setting("resnet8:8", "Teacher: resnetDEPTH:WIDTH.")
  student_network: str = fields.setting("resnet8:4", "Student: resnetDEPTH:WIDTH.")
  ensemble_network: str = fields.setting(
    "resnet8:8", "Widest of three students of the online ensemble: resnetDEPTH:WIDTH."
  )
  clients: int = fields.setting(10, "Clients of a round.", least=1)
  local_steps: int = fields.setting(20, "Steps of each client.", least=1)
  client_batch_size: int = fields.setting(32, "Rows of a client's step.", least=1)
  groups: tuple[str, ...] = fields.setting(
    tuple(PLAIN), "Groups of methods to measure.", choices=tuple(PLAIN)
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a count is below 1 or a name is not known.
  """
  config = fields.configured(Config, given)
  for name in ("teacher_network", "student_network", "ensemble_network"):
    network = networks.of_flag(name, getattr(config, name))
    if not isinstance(network, models.CifarResNet):
      raise ValueError(
        f"--{name}: expected resnetDEPTH:WIDTH, got {getattr(config, name)}"
      )
  return config


def run(config: Config) -> None:
  """Measures and prints."""
  measurement.use_device(config.device)
  made = {"student": of_student, "ensemble": of_ensemble, "federated": of_federated}
  groups = {name: made[name](config) for name in config.groups}
  programs = {
    f"{group}: {name}": program
    for group, named in groups.items()
    for name, program in named.items()
  }
  seconds = measurement.in_turns(programs, rounds=config.rounds, steps=config.steps)
  environment = measurement.environment()
  print(
    measurement.heading(
      environment,
      f"batch {config.batch_size}",
      f"images of {config.image_size} pixels",
      f"{config.rounds} rounds, median (range)",
      f"seed {config.seed}\n",
    )
  )
  rows = []
  for group, named in groups.items():
    plain = seconds[f"{group}: {PLAIN[group]}"]
    for name in named:
      times = seconds[f"{group}: {name}"]
      ratio = measurement.spread(measurement.ratios(times, plain))
      rows.append([name, measurement.spread(times, factor=1000), ratio])
  print(measurement.table(["method", "ms", "x plain training"], rows))
  measurement.write(config, environment, {"seconds": measurement.summary(seconds)})


def of_student(config: Config) -> dict[str, Callable[[], None]]:
  """Steps of methods that train one student, or two that are alike."""
  student = _model(config.student_network)
  teacher_model = _model(config.teacher_network, axis_name=None)
  branched_model = models.with_branches(teacher_model, 4 * NUM_CLASSES)
  images = _images(config)
  teacher, branched = (
    methods.Network(
      model, capture.init(model, jax.random.key(1), jnp.asarray(images[:2]))
    )
    for model in (teacher_model, branched_model)
  )
  adam = optax.adam(1e-3)
  taps = {tap: tap for tap in student.taps}
  last = {student.taps[-1]: teacher_model.taps[-1]}
  made = {
    PLAIN["student"]: methods.supervised(student, adam),
    "softened logits": methods.knowledge_distillation(student, teacher, adam),
    "hint, last tap": methods.hint(student, teacher, adam, pairs=last),
    "information flow, all taps": methods.information_flow(
      student, teacher, adam, pairs=taps, weights=dict.fromkeys(taps, 1.0)
    ),
    "similarity-preserving, all taps": methods.similarity_preserving(
      student, teacher, adam, pairs=taps
    ),
    "filtered distillation (KDDG)": methods.filtered_distillation(
      student, teacher, adam, gradient_filter="confident", threshold=0.9
    ),
    "joint labels of four rotations": methods.hierarchical_teacher(
      student, adam, keep_branches=False
    ),
    "softened logits of four rotations": methods.hierarchical_student(
      student, branched, adam, branches=False
    ),
    "HSAKD, logits and branches": methods.hierarchical_student(student, branched, adam),
    "HSSAKD online, two students": methods.hierarchical_mutual(
      (student, student), adam
    ),
  }
  batch = _batch(config, images)
  return {name: _stepper(method, batch) for name, method in made.items()}


def of_ensemble(config: Config) -> dict[str, Callable[[], None]]:
  """Steps of the online ensemble, three students."""
  network, adam = _model(config.ensemble_network), optax.adam(1e-3)
  batch = _batch(config, _images(config))
  made = {
    PLAIN["ensemble"]: methods.supervised(network, adam),
    "three students on a base, labels only": methods.online_ensemble(
      network, adam, num_students=3, feature_weight=0.0, ensemble_weight=0.0
    ),
    "online ensemble of three": methods.online_ensemble(network, adam, num_students=3),
  }
  return {name: _stepper(method, batch) for name, method in made.items()}


def of_federated(config: Config) -> dict[str, Callable[[], None]]:
  """Rounds of federated learning."""
  model = models.by_name("latent_cnn", num_classes=NUM_CLASSES, axis_name="batch")
  clients, steps, rows = config.clients, config.local_steps, config.client_batch_size
  rng = np.random.default_rng(config.seed)
  shape = (clients, steps, rows)
  images = rng.standard_normal((*shape, 14, 14, 1)).astype(np.float32)
  labels = rng.integers(0, NUM_CLASSES, shape).astype(np.int32)
  batch = {
    "image": images,
    "label": labels,
    "mask": np.ones(shape, bool),
    "client": np.arange(clients, dtype=np.int32),
    "size": np.full(clients, steps * rows, np.int32),
  }
  together = {
    "image": images[:, 0].reshape(-1, *images.shape[3:]),
    "label": labels[:, 0].reshape(-1),
    "mask": np.ones(clients * rows, bool),
  }
  step = _stepper(methods.supervised(model, optax.sgd(0.1)), together)

  def plain_steps():
    for _ in range(steps):
      step()

  def generator(kl_weight=0.0):
    return methods.GeneratorOptions(
      optimizer=optax.adam(3e-4),
      latent_weight=1.0,
      kl_weight=kl_weight,
      batch_size=rows,
    )

  made = {
    "FedAvg": methods.federated_averaging(model, 0.1),
    "FedProx": methods.federated_averaging(model, 0.1, proximal_weight=0.01),
    "FedGen": methods.federated_averaging(model, 0.1, generator=generator()),
    "FedGen, KL term": methods.federated_averaging(
      model, 0.1, generator=generator(kl_weight=1.0)
    ),
  }
  rounds = {name: _stepper(method, batch) for name, method in made.items()}
  return {PLAIN["federated"]: plain_steps, **rounds}


def _model(name: str, axis_name: str | None = "batch") -> models.CifarResNet:
  found = models.by_name(name, num_classes=NUM_CLASSES, axis_name=axis_name)
  return cast("models.CifarResNet", found)  # `configure` has seen to it


def _images(config):
  rng = np.random.default_rng(config.seed)
  shape = (config.batch_size, config.image_size, config.image_size, 3)
  return rng.standard_normal(shape).astype(np.float32)


def _batch(config, images):
  rng = np.random.default_rng(config.seed + 1)
  labels = rng.integers(0, NUM_CLASSES, len(images)).astype(np.int32)
  return {"image": images, "label": labels, "mask": np.ones(len(images), bool)}


def _stepper(
  method: methods.Method, batch: Mapping[str, np.ndarray]
) -> Callable[[], None]:
  """A step on one device, from one state to the next; to its end."""
  device = jax.local_devices()[:1]
  example = batch["image"].reshape(-1, *batch["image"].shape[-3:])[:2]
  step = train.DeviceStep(
    method, lambda resident, rows: resident | rows, {}, devices=device
  )
  state = [
    train.replicate(method.init(jax.random.key(0), jnp.asarray(example)), device)
  ]

  def run_step():
    state[0], metrics = step(state[0], batch)
    jax.block_until_ready((state[0], metrics))

  return run_step


if __name__ == "__main__":
  launch.launch(Config, configure, run)
