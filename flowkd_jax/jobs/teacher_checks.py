"""Checks of a trained teacher on the student's training data, for the doctor."""

from collections.abc import Iterator
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import evaluation
from flowkd_jax import methods
from flowkd_jax import train
from flowkd_jax.jobs.finding import Finding
from flowkd_jax.jobs.finding import Level

__all__ = ["classifier", "evaluation_mode", "taps"]

# Accuracies as fractions of the range from chance to 100 %: below the first, a network
# has learnt nothing about the data; below the second, it is a weak teacher.
_NOTHING, _WEAK = 0.2, 0.6
_LAG = 0.2  # accuracy by which a classifier may be worse than the last tap
_DEAD = 0.5  # share of constant units beyond which a tap is suspect
_WIDE = 2**17  # entries of a row beyond which comparing rows dominates the step
_GAP = 0.5  # relative change of the last tap beyond which statistics are suspect
_EXAMPLES = 16  # images on which the evaluation mode of the teacher is tried


def classifier(
  features: train.Features, num_classes: int, *, logits_are_used: bool = False
) -> Iterator[Finding]:
  """Accuracy of the teacher on training images, and the order of its classes.

  Chance is the share of the most frequent class. The accuracy of the nearest centroid
  in the last tap shows whether the taps are good even if the classifier is not.
  Centroids come from every second image; accuracy is measured on the other images.

  Args:
    features: Logits and taps of the teacher on training images.
    num_classes: Number of classes of the data.
    logits_are_used: True if a student learns from the logits.
  """
  if features.logits.shape[1] != num_classes:
    yield Finding(
      Level.WRONG,
      f"The teacher has {features.logits.shape[1]} classes, the data {num_classes}.",
    )
    return
  labelled = features.labels >= 0
  if not labelled.any():
    yield Finding(Level.SKIPPED, "Accuracy of the teacher: no image has a label.")
    return
  labels, logits = features.labels[labelled], features.logits[labelled]
  embedded = [*features.taps.values()][-1][labelled].reshape(len(labels), -1)
  if not (np.isfinite(logits).all() and np.isfinite(embedded).all()):
    yield Finding(
      Level.WRONG,
      "Logits or the last tap of the teacher are not finite: its training diverged, or "
      "its weights are damaged. Train it with a lower learning rate.",
    )
    return
  accuracy, centroid = features.accuracy, _centroid_accuracy(embedded, labels)
  chance = np.bincount(labels).max() / len(labels)
  text = (
    f"The teacher classifies {100 * accuracy:.1f} % of {len(labels)} training images "
    f"correctly, and {100 * centroid:.1f} % by the nearest centroid of its last tap; "
    f"chance is {100 * chance:.1f} %."
  )
  order, best = _best_order(logits.argmax(1), labels, num_classes)
  if best > max(accuracy + _LAG, _between(chance, _NOTHING)):
    yield Finding(
      Level.WRONG,
      f"{text} With its classes in another order it would be {100 * best:.1f} %: the "
      f"label orders of teacher and data differ ({order}).",
    )
  else:
    yield _judged(text, accuracy, centroid, chance, logits_are_used)


def _judged(
  text: str, accuracy: float, centroid: float, chance: float, logits_are_used: bool
) -> Finding:
  """Finding about the accuracies of classifier and centroids."""
  if max(accuracy, centroid) < _between(chance, _NOTHING):
    return Finding(
      Level.WRONG,
      f"{text} That is hardly more than chance: check that this is the right network "
      "and that normalisation, channel order and image size are those it was trained "
      "with, or train it longer.",
    )
  if accuracy < centroid - _LAG:
    advice = (
      "train the classifier, or learn from taps only (--last_tap_from=tap, no stage "
      "student_kd)"
      if logits_are_used
      else "learn from its taps, as these settings do, not from its logits"
    )
    level = Level.WRONG if logits_are_used else Level.WARNING
    hint = f"Its classifier is much worse than its features: {advice}."
    return Finding(level, f"{text} {hint}")
  if accuracy < _between(chance, _WEAK):
    return Finding(
      Level.WARNING,
      f"{text} A weak teacher has little to teach: train it until it classifies "
      f"{100 * _between(chance, _WEAK):.0f} % or more, with more epochs, another "
      "learning rate or a larger network.",
    )
  return Finding(Level.FINE, text)


def _between(chance: float, share: float) -> float:
  """Accuracy at a fraction of the range from chance to 1."""
  return chance + share * (1 - chance)


def _centroid_accuracy(embedded: np.ndarray, labels: np.ndarray) -> float:
  """Accuracy of centroids of every second row, on the other rows."""
  parts = slice(0, None, 2), slice(1, None, 2)
  if not {*labels[parts[0]]} & {*labels[parts[1]]}:  # a handful of images
    parts = slice(None), slice(None)  # no common class: measure on all images
  database, queries = parts
  return evaluation.nearest_centroid_accuracy(
    embedded[database],
    labels[database],
    embedded[queries],
    labels[queries],
    metric="cosine",
  )


def _best_order(
  guesses: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[str, float]:
  """Order of classes with the highest accuracy, and this accuracy."""
  confusion = np.zeros((num_classes, num_classes), int)
  np.add.at(confusion, (guesses, labels), 1)
  rows, columns = optimize.linear_sum_assignment(-confusion)
  order = ", ".join(f"{g}->{c}" for g, c in zip(rows, columns, strict=True))
  return order, confusion[rows, columns].sum() / len(labels)


def evaluation_mode(teacher: methods.Network, probe: data.Batches) -> Finding:
  """Agreement of the teacher's running statistics with the data."""
  rows = next(probe.epoch(0))
  images = jax.jit(lambda *data: probe.prepare(*data)["image"])(
    dict(probe.resident), rows
  )
  try:
    capture.check_evaluation(teacher.model, teacher.variables, images[:_EXAMPLES])
  except ValueError as error:
    return Finding(Level.WRONG, f"The teacher: {error}.")
  if "batch_stats" not in teacher.variables:
    return Finding(
      Level.FINE,
      "The teacher has no BatchNorm: its outputs do not depend on the batch.",
    )

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
    "Batch statistics instead of running statistics would change the teacher's last "
    f"tap by {100 * gap:.0f} %; it is used in evaluation mode."
  )
  if gap > _GAP:
    hint = "The statistics may come from other data or another preprocessing."
    return Finding(Level.WARNING, f"{text} {hint}")
  return Finding(Level.FINE, text)


def taps(activations: Mapping[str, np.ndarray]) -> Iterator[Finding]:
  """Shapes and constant units of the teacher's taps."""
  for name, activation in activations.items():
    rows = activation.reshape(len(activation), -1)
    dead = evaluation.dead_share(rows)
    shape = " x ".join(map(str, activation.shape[1:]))
    text = (
      f"Tap {name} of the teacher: {shape}, {100 * dead:.0f} % of its units are "
      "constant."
    )
    if not np.isfinite(rows).all():
      yield Finding(Level.WRONG, f"{text} Some of its activations are not finite.")
    elif dead == 1:
      yield Finding(Level.WRONG, f"{text} Nothing can be learnt from it.")
    elif rows.shape[1] == 1:
      hint = "Cosines of a single unit are only signs: use another tap."
      yield Finding(Level.WARNING, f"{text} {hint}")
    elif rows.shape[1] > _WIDE:
      hint = "Comparing such long rows is slow: use a pooled tap."
      yield Finding(Level.WARNING, f"{text} {hint}")
    else:
      yield Finding(Level.WARNING if dead > _DEAD else Level.FINE, text)
