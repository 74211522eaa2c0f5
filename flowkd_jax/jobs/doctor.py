"""Before a long run: what usually goes wrong, looked at in a minute.

Takes the flags of `flowkd train information_flow` and the work directory in which the
network was trained (or imported, `--stages=auxiliary`) that the student is to learn
from, trains nothing, and says one sentence for each thing it looked at:

    flowkd doctor --dataset=cifar10 --data_dir=D --workdir=W

Exit status 1 if something is wrong, 0 if there are at most warnings.
"""

import enum
import sys
from collections.abc import Iterator
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import evaluation
from flowkd_jax import methods
from flowkd_jax import train
from flowkd_jax.jobs import environment
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import information_flow
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

__all__ = [
  "PRESETS",
  "RECIPES",
  "Config",
  "Finding",
  "Level",
  "batch_scope",
  "classifier",
  "configure",
  "evaluation_mode",
  "examine",
  "first_step",
  "gradients",
  "magnitudes",
  "memory",
  "run",
  "taps",
]

_DEAD = 0.5  # share of units that never move, from which a tap is suspect
_WIDE = 2**17  # entries of a row, from which comparing rows takes the time
_GAP = 0.5  # relative change of the last tap, from which statistics are suspect
_EXAMPLES = 16  # images on which the mode of the teacher is tried
_RATIO = 1e4  # between two weighted losses, from which one drowns the other
_GRADIENT_RATIO = 100  # between the gradients of labels and teacher, likewise


class Level(enum.Enum):
  """How bad a finding is."""

  FINE = "ok"
  WARNING = "warning"
  WRONG = "wrong"


class Finding(NamedTuple):
  """One sentence about one thing."""

  level: Level
  text: str


Config = information_flow.Config
configure = information_flow.configure
PRESETS, RECIPES = information_flow.PRESETS, information_flow.RECIPES


def run(config: Config) -> None:
  """Looks, says, and exits with status 1 if something is wrong."""
  if config.learn_from == flow_settings.RECORDED:
    raise ValueError("--learn_from: there is no network to look at, outputs alone")
  progress = train.Progress()
  datasets = job_run.open_datasets(config, progress)
  levels = []
  for finding in examine(config, datasets, progress):
    levels.append(finding.level)
    progress.say(f"{finding.level.value:>8}  {finding.text}")
  if Level.WRONG in levels:
    sys.exit(1)


def examine(
  config: information_flow.Config, datasets: stages.Datasets, progress: train.Progress
) -> Iterator[Finding]:
  """All findings, those that need the least first.

  Raises:
    ValueError: If the stage that the student learns from has not been run.
  """
  yield batch_scope(config.batch_size, jax.local_device_count())
  num_classes = datasets.training.num_classes
  runner = job_run.stage_runner(config, datasets, progress)
  name = getattr(config, f"{config.learn_from}_network")
  teacher = runner.network(
    config.learn_from, settings.network(config, name, num_classes)
  )
  probe = train.FeatureExtractor(teacher.model, datasets.probe)(teacher.variables)
  yield from classifier(probe, num_classes)
  yield evaluation_mode(teacher, datasets.probe)
  yield from taps(probe.taps)
  stage = information_flow.student_stage(config, runner)
  yield from first_step(stage.make_method(), datasets.training)


def batch_scope(batch_size: int, num_devices: int) -> Finding:
  """Pairwise losses see the global batch; a share of a few rows is still slow."""
  share = batch_size // num_devices
  text = (
    f"A step has {batch_size} rows, {share} on each of {num_devices} devices; pairs "
    "are taken over all of them."
  )
  if share < 8:
    return Finding(Level.WARNING, f"{text} So few rows a device waste its time.")
  if batch_size < 32:
    return Finding(Level.WARNING, f"{text} So few rows tell little of neighbours.")
  return Finding(Level.FINE, text)


def classifier(features: train.Features, num_classes: int) -> Iterator[Finding]:
  """Accuracy of the teacher on this data, and whether its classes are in this order."""
  if features.logits.shape[1] != num_classes:
    yield Finding(
      Level.WRONG,
      f"The teacher has {features.logits.shape[1]} classes, the data {num_classes}.",
    )
    return
  labelled = features.labels >= 0
  labels, guesses = features.labels[labelled], features.logits[labelled].argmax(1)
  accuracy = features.accuracy
  confusion = np.zeros((num_classes, num_classes), int)
  np.add.at(confusion, (guesses, labels), 1)
  rows, columns = optimize.linear_sum_assignment(-confusion)
  best = confusion[rows, columns].sum() / len(labels)
  last = [*features.taps.values()][-1][labelled]
  embedded = last.reshape(len(last), -1)
  centroid = evaluation.nearest_centroid_accuracy(
    embedded, labels, embedded, labels, metric="cosine"
  )
  text = (
    f"The teacher classifies {100 * accuracy:.1f} % of {len(labels)} training images; "
    f"by the nearest centroid of its last tap it is {100 * centroid:.1f} %."
  )
  luck = min(2 / num_classes, (1 + 1 / num_classes) / 2)  # what chance may reach
  if best > max(accuracy + 0.2, luck):
    order = ", ".join(f"{g}->{c}" for g, c in zip(rows, columns, strict=True))
    yield Finding(
      Level.WRONG,
      f"{text} With its classes in another order it would be {100 * best:.1f} %: label "
      f"orders differ ({order}).",
    )
  elif max(accuracy, centroid) < luck:
    yield Finding(
      Level.WRONG,
      f"{text} That is hardly more than chance: look at normalisation, channel order "
      "and image size, which have to be those it was trained with.",
    )
  elif accuracy < centroid - 0.2:
    yield Finding(
      Level.WARNING,
      f"{text} Its classifier lags behind its features: do not distil its logits.",
    )
  else:
    yield Finding(Level.FINE, text)


def evaluation_mode(teacher: methods.Network, probe: data.Batches) -> Finding:
  """Whether the running statistics of the teacher are those of this data."""
  rows = next(probe.epoch(0))
  images = jax.jit(lambda *data: probe.prepare(*data)["image"])(
    dict(probe.resident), rows
  )
  try:
    capture.check_evaluation(teacher.model, teacher.variables, images[:_EXAMPLES])
  except ValueError as error:
    return Finding(Level.WRONG, f"Of the teacher: {error}.")
  if "batch_stats" not in teacher.variables:
    return Finding(Level.FINE, "The teacher makes of an image the same in any batch.")

  @jax.jit
  def last_taps(variables, resident, rows):
    images = probe.prepare(resident, rows)["image"]
    _, running = capture.apply_with_taps(teacher.model, variables, images)
    (_, own), _ = capture.apply_with_taps(
      teacher.model,
      variables,
      images,
      train=True,
      rngs={"dropout": jax.random.key(0)},
      mutable=["batch_stats"],
    )
    return [taps[teacher.model.taps[-1]] for taps in (running, own)]

  running, own = last_taps(dict(teacher.variables), dict(probe.resident), rows)
  gap = float(jnp.linalg.norm(running - own) / jnp.linalg.norm(running))
  text = (
    "Statistics of the batch in place of the running ones would move the teacher's "
    f"last tap by {100 * gap:.0f} %; it is used in evaluation mode."
  )
  if gap > _GAP:
    hint = "So much hints at statistics of other data or another preprocessing."
    return Finding(Level.WARNING, f"{text} {hint}")
  return Finding(Level.FINE, text)


def taps(activations: Mapping[str, np.ndarray]) -> Iterator[Finding]:
  """Shapes of the teacher's taps that do not suit, and units that never move."""
  for name, activation in activations.items():
    rows = activation.reshape(len(activation), -1)
    dead = evaluation.dead_share(rows)
    shape = " x ".join(map(str, activation.shape[1:]))
    text = (
      f"Tap {name} of the teacher: {shape}, {100 * dead:.0f} % of its units never move."
    )
    if not np.isfinite(rows).all():
      yield Finding(Level.WRONG, f"{text} Some of its activations are not finite.")
    elif dead == 1:
      yield Finding(Level.WRONG, f"{text} Nothing can be learnt from it.")
    elif rows.shape[1] == 1:
      hint = "The cosines of a single unit tell nothing but signs: take another tap."
      yield Finding(Level.WARNING, f"{text} {hint}")
    elif rows.shape[1] > _WIDE:
      hint = "Comparing such long rows is slow: take a pooled tap."
      yield Finding(Level.WARNING, f"{text} {hint}")
    else:
      yield Finding(Level.WARNING if dead > _DEAD else Level.FINE, text)


def first_step(method: methods.Method, training: data.Batches) -> Iterator[Finding]:
  """Losses and gradients of the student's first step, and the memory that it takes."""
  step = train.DeviceStep(method, training.prepare, training.resident)
  images = jnp.zeros((2, *training.image_shape))
  state = train.replicate(method.init(jax.random.key(0), images), step.devices)
  batch = next(training.epoch(0))
  yield memory(step.needed_bytes(state, batch), environment.device_bytes())
  observed = train.Diagnostics(method, training)(state)
  _, metrics = step(state, batch)
  yield magnitudes({name: float(value) for name, value in metrics.items()})
  yield gradients(observed)


def magnitudes(metrics: Mapping[str, float]) -> Finding:
  """Whether losses and gradient are finite and of one order."""
  names = [name[5:] for name in metrics if name.startswith("loss/")]
  shares = {name: metrics[f"loss/{name}"] * metrics[f"weight/{name}"] for name in names}
  shown = ", ".join(f"{name} {share:.3g}" for name, share in shares.items())
  norm = metrics["gradient_norm"]
  text = f"First step: weighted losses {shown}; norm of the gradient {norm:.3g}."
  if not np.isfinite([norm, *shares.values()]).all():
    return Finding(Level.WRONG, f"{text} Something is not finite.")
  if max(shares.values()) > _RATIO * max(min(shares.values()), 1e-30):
    return Finding(Level.WARNING, f"{text} The largest drowns the smallest.")
  return Finding(Level.FINE, text)


def gradients(observed: Mapping[str, float]) -> Finding:
  """Whether the gradient of one term drowns another's: labels' and teacher's, taps'."""
  norms = {
    name.removeprefix("gradient/"): value
    for name, value in observed.items()
    if name.startswith("gradient/")
  }
  shown = ", ".join(f"{name} {norm:.3g}" for name, norm in norms.items())
  text = f"First step: norms of the gradients of the weighted losses {shown}."
  ratio = observed.get("gradient_ratio")
  if ratio is not None:
    text = f"{text} The teacher's pull is {ratio:.3g} times that of the labels."
  if not np.isfinite([*norms.values()]).all():
    return Finding(Level.WRONG, f"{text} Something is not finite.")
  if not any(norms.values()):
    return Finding(Level.WRONG, f"{text} Nothing would be learnt.")
  if ratio is not None and not 1 / _GRADIENT_RATIO <= ratio <= _GRADIENT_RATIO:
    drowned = "labels" if ratio > 1 else "teacher"
    hint = f"The {drowned} would hardly be heard: change the weight of the labels."
    return Finding(Level.WARNING, f"{text} {hint}")
  still = [name for name, norm in norms.items() if norm * _RATIO < max(norms.values())]
  if still:
    return Finding(Level.WARNING, f"{text} {', '.join(still)} would hardly be heard.")
  return Finding(Level.FINE, text)


def memory(needed_bytes: int, limit_bytes: int | None) -> Finding:
  """Memory of a step against that of the device, if that is known."""
  text = (
    f"A step needs {needed_bytes / 2**30:.2f} GiB on each device, parameters and data "
    "included"
  )
  if limit_bytes is None:
    return Finding(Level.FINE, f"{text}; this device does not tell what it has.")
  text = f"{text}; there are {limit_bytes / 2**30:.1f} GiB."
  if needed_bytes > limit_bytes:
    hint = "Lower the batch size, or let the data stream: --memory_gib=0."
    return Finding(Level.WRONG, f"{text} {hint}")
  return Finding(Level.FINE, text)
