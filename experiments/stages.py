"""Stages of an experiment: train networks, measure them, keep them, remember that.

A stage leaves in `WORKDIR/STAGE/` its checkpoints while it runs and, when it is done,
each network that its method exports and `results.json`; a finished stage is not
repeated. Metrics of all stages go to `WORKDIR/metrics.jsonl` and
`WORKDIR/tensorboard/`.
"""

import dataclasses
import functools
import json
import shutil
import time
import zlib
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments import environment
from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import evaluation
from flowkd_jax import flow
from flowkd_jax import kernels
from flowkd_jax import methods
from flowkd_jax import report
from flowkd_jax import train

FLOW_KERNELS = ("cosine", "student_t")
FLOW_BLOCK = 512
RESULTS = "results.json"
EVALUATION_BATCH = 512

Metrics = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Datasets:
  """The batches that stages share.

  Attributes:
    training: Shuffled and augmented.
    database: The training examples, clean, in order.
    queries: The test examples.
    probe: Some training examples, clean, on which information flow is measured.
    validation: Further examples whose accuracy is measured, if any.
  """

  training: data.Batches
  database: data.Batches
  queries: data.Batches
  probe: data.Batches
  validation: data.Batches | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
  """Something to train.

  Attributes:
    name: Its folder, and its name in metrics, tables and pictures.
    title: What it is, for people.
    make_method: `() -> method`; called only if the stage has to run.
    epochs: Passes over the training data.
    teacher: Stage whose network it learns from, if any.
    classifies: Whether its classifier was trained, so that accuracy means something.
    init_name: Stages of one such name start from the same weights.
    training: Batches of its own, in place of those that all stages share.
    summarize: `metrics of its epochs -> further results`, by name.
  """

  name: str
  title: str
  make_method: Callable[[], methods.Method]
  epochs: int
  teacher: str | None = None
  classifies: bool = True
  init_name: str | None = None
  training: data.Batches | None = None
  summarize: Callable[[Metrics], Mapping[str, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class Imported:
  """A network that comes from elsewhere and is only measured.

  Attributes:
    name: Its folder, and its name in metrics, tables and pictures.
    title: What it is, for people.
    network: The network.
  """

  name: str
  title: str
  network: methods.Network


class StageRunner:
  """Runs stages in a work directory."""

  def __init__(
    self,
    workdir: Path,
    datasets: Datasets,
    *,
    seed: int,
    measure_every: int,
    measure: Sequence[str],
    checkpoint_seconds: float,
    progress: train.Progress,
    should_stop: Callable[[], str | None],
  ):
    """Nothing is computed or written before `run`."""
    self.workdir = workdir
    self.datasets = datasets
    self.seed = seed
    self.measure_every = measure_every
    self.measure = measure
    self.checkpoint_seconds = checkpoint_seconds
    self.progress = progress
    self.should_stop = should_stop

  def is_done(self, name: str) -> bool:
    """Whether the stage has left its results."""
    return (self.workdir / name / RESULTS).exists()

  def network(
    self, name: str, model: nn.Module, exported: str = "network"
  ) -> methods.Network:
    """A network that a finished stage left, frozen: not bound to a mapped axis.

    Args:
      name: The stage.
      model: The network's module.
      exported: Its name among those that the method exports.

    Raises:
      ValueError: If the stage has not been run.
    """
    if not self.is_done(name):
      raise ValueError(
        f"stage {name} has not been run in {self.workdir}, and a later stage learns "
        f"from it: add {name} to --stages, or leave --stages away to run all"
      )
    images = jnp.zeros((2, *self.datasets.training.image_shape))
    variables = jax.eval_shape(
      lambda key: capture.init(model, key, images), jax.random.key(0)
    )
    template = methods.Network(_for_evaluation(model), _zeros(variables))
    return train.load_network(self.workdir / name / exported, template)

  def metrics(self, name: str) -> list[dict[str, Any]]:
    """What was recorded of the epochs of a stage, in order; -1 is before the first."""
    entries = report.read_metrics(self.workdir)
    return [entry for entry in entries if entry["stage"] == name]

  def run(self, stage: Stage | Imported) -> list[dict[str, Any]]:
    """Trains and measures the networks unless that is done; returns their results."""
    folder = self.workdir / stage.name
    if self.is_done(stage.name):
      self.progress.say(f"{stage.title}: done before, in {folder}")
      return json.loads((folder / RESULTS).read_text())
    if isinstance(stage, Imported):
      networks = {"network": stage.network}
      seconds = self._record_imported(stage, networks)
      about: dict[str, Any] = {"epochs": 0, "teacher": None}
    else:
      networks, seconds = self._train(stage)
      about = {"epochs": stage.epochs, "teacher": stage.teacher}
      if stage.summarize is not None:
        about |= stage.summarize(self.metrics(stage.name))
    about |= {"seconds": seconds, "environment": environment.environment()}
    classifies = isinstance(stage, Imported) or stage.classifies
    results = []
    for exported, network in networks.items():
      train.save_network(folder / exported, network)
      suffix = "" if len(networks) == 1 else exported
      names = {
        "name": "/".join(filter(None, (stage.name, suffix))),
        "title": ", ".join(filter(None, (stage.title, suffix))),
      }
      measured = self._evaluate(network, classifies=classifies)
      results.append({**names, **measured, **about})
    write_json(folder / RESULTS, results)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return results

  def _train(self, stage: Stage) -> tuple[Mapping[str, methods.Network], float]:
    method = stage.make_method()
    measure = self._measures(
      stage.epochs, self.measure_every, classifies=stage.classifies
    )
    with (
      train.Checkpoints(self.workdir / stage.name / "checkpoints") as checkpoints,
      train.MetricsWriter(self.workdir, stage.name) as metrics,
    ):
      options = train.FitOptions(
        checkpoints=checkpoints,
        checkpoint_seconds=self.checkpoint_seconds,
        metrics=metrics,
        progress=self.progress,
        title=stage.title,
        on_epoch=lambda epoch, method, state: measure(epoch, method.export(state)),
        should_stop=self.should_stop,
      )
      state, seconds = train.fit(
        method,
        stage.training or self.datasets.training,
        epochs=stage.epochs,
        key=self._key(stage.init_name or stage.name),
        options=options,
      )
    return method.export(state), seconds

  def _record_imported(
    self, stage: Imported, networks: Mapping[str, methods.Network]
  ) -> float:
    self.progress.say(f"{stage.title}: measuring its information flow")
    began = time.monotonic()
    measure = self._measures(epochs=0, every=1, classifies=True)
    with train.MetricsWriter(self.workdir, stage.name) as metrics:
      metrics.write(-1, 0, measure(-1, networks))
    return time.monotonic() - began

  def _measures(self, epochs: int, every: int, **options: bool) -> "_EpochMeasures":
    flow = "flow" in self.measure
    return _EpochMeasures(self.datasets, epochs, every, flow=flow, **options)

  def _key(self, name: str) -> jax.Array:
    return jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(name.encode()))

  def _evaluate(self, network: methods.Network, *, classifies: bool) -> dict[str, Any]:
    measured: dict[str, Any] = {
      "parameters": sum(x.size for x in jax.tree.leaves(network.variables["params"]))
    }
    taps = (network.model.taps[-1],) if "retrieval" in self.measure else ()
    queries = self._features(network, self.datasets.queries, "test images", taps)
    measured["accuracy"] = _accuracy(queries) if classifies else None
    if self.datasets.validation is not None and classifies:
      found = self._features(network, self.datasets.validation, "validation images")
      measured["validation_accuracy"] = _accuracy(found)
    if taps:
      clean = self.datasets.database
      database = self._features(network, clean, "training images", taps)
      measured |= self._retrieval(database, queries, *taps)
    return measured

  def _features(
    self, network: methods.Network, batches: data.Batches, what: str, taps=()
  ) -> train.Features:
    model = _for_evaluation(network.model)
    extract = train.FeatureExtractor(model, batches, taps=taps)
    counter = self.progress.counter(f"  features of the {what}")
    return extract(network.variables, counter)

  def _retrieval(
    self, database: train.Features, queries: train.Features, tap: str
  ) -> dict[str, Any]:
    """Retrieval of training by test examples, and centroids, by both distances."""
    arguments = (database.taps[tap], database.labels, queries.taps[tap], queries.labels)
    ranks = [k for k in (1, 10, 100) if k <= len(database.labels)]
    centroid, retrieval = {}, {}
    for metric in ("euclidean", "cosine"):
      centroid[metric] = evaluation.nearest_centroid_accuracy(*arguments, metric=metric)
      found = evaluation.retrieval(
        *arguments,
        metric=metric,
        ranks=ranks,
        progress=self.progress.counter(f"  retrieval, {metric}"),
      )
      retrieval[metric] = _jsonable(dataclasses.asdict(found))
      retrieval[metric].pop("authors_raw_precision")
    return {"centroid": centroid, "retrieval": retrieval}


class _EpochMeasures:
  """Information flow and test accuracy of the networks, every few epochs."""

  def __init__(
    self,
    datasets: Datasets,
    epochs: int,
    every: int,
    *,
    classifies: bool,
    flow: bool,
  ):
    self._datasets, self._epochs, self._every = datasets, epochs, every
    self._classifies, self._flow = classifies, flow
    self._extractors: dict[str, dict[str, train.FeatureExtractor]] = {}

  def __call__(
    self, epoch: int, networks: Mapping[str, methods.Network]
  ) -> dict[str, float]:
    last = epoch == self._epochs - 1
    if not self._every or (not last and (epoch + 1) % self._every):
      return {}
    measured = {}
    for name, network in networks.items():
      prefix = "" if len(networks) == 1 else f"{name}/"
      values = self._measure(name, network)
      measured |= {f"{prefix}{key}": value for key, value in values.items()}
    return measured

  def _measure(self, name, network):
    if name not in self._extractors:  # compiled once
      self._extractors[name] = self._make_extractors(_for_evaluation(network.model))
    found = {
      metric: extract(network.variables)
      for metric, extract in self._extractors[name].items()
    }
    measured = {}
    if "probe" in found:
      probe, num_classes = found.pop("probe"), self._datasets.training.num_classes
      for kernel in FLOW_KERNELS:
        values = measure_flow(probe, num_classes, kernel)
        measured |= {f"qmi/{kernel}/{tap}": value for tap, value in values.items()}
    return measured | {metric: _accuracy(value) for metric, value in found.items()}

  def _make_extractors(self, model):
    extractors = {}
    if self._flow:
      extractors["probe"] = train.FeatureExtractor(model, self._datasets.probe)
    if self._classifies:
      extractors["test_accuracy"] = train.FeatureExtractor(
        model, self._datasets.queries, taps=()
      )
    if self._classifies and self._datasets.validation is not None:
      extractors["validation_accuracy"] = train.FeatureExtractor(
        model, self._datasets.validation, taps=()
      )
    return extractors


def _accuracy(features: train.Features) -> float:
  logits, labels = jnp.asarray(features.logits), jnp.asarray(features.labels)
  return float(evaluation.accuracy(logits, labels))


def measure_flow(
  features: train.Features, num_classes: int, kernel: str
) -> dict[str, float]:
  """Quadratic mutual information of every tap with the labels, by name."""
  values = _information_flow(
    list(features.taps.values()), features.labels, num_classes, kernel
  )
  return dict(zip(features.taps, np.asarray(values).tolist(), strict=True))


@functools.partial(jax.jit, static_argnames=("num_classes", "kernel"))
def _information_flow(taps, labels, num_classes, kernel):
  return flow.information_flow(
    taps,
    labels,
    num_classes,
    kernel=kernels.by_name(kernel),
    block_size=FLOW_BLOCK,
  )


def write_json(path: Path, value: Any) -> None:
  """Writes a file that is either whole or not there."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(value, indent=2) + "\n")
  temporary.replace(path)


def _for_evaluation(model: nn.Module) -> nn.Module:
  return model.clone(axis_name=None)


def _zeros(shapes: Any) -> Any:
  return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def _jsonable(value: Any) -> Any:
  if isinstance(value, dict):
    return {str(key): _jsonable(entry) for key, entry in value.items()}
  return value.tolist() if isinstance(value, np.ndarray) else value
