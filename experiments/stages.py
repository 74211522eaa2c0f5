"""Stages of an experiment: train a network, measure it, keep it, remember that.

A stage leaves in `WORKDIR/STAGE/` its checkpoints while it runs and, when it is done,
the network and `result.json`; a finished stage is not repeated. Metrics of all stages
go to `WORKDIR/metrics.jsonl` and `WORKDIR/tensorboard/`.
"""

import dataclasses
import functools
import json
import shutil
import time
import zlib
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import evaluation
from flowkd_jax import flow
from flowkd_jax import kernels
from flowkd_jax import methods
from flowkd_jax import train

FLOW_KERNELS = ("cosine", "student_t")
FLOW_BLOCK = 512
EVALUATION_BATCH = 512


@dataclasses.dataclass(frozen=True)
class Datasets:
  """The batches that stages share.

  Attributes:
    training: Shuffled and augmented.
    database: The training examples, clean, in order.
    queries: The test examples.
    probe: Some training examples, clean, on which information flow is measured.
  """

  training: data.Batches
  database: data.Batches
  queries: data.Batches
  probe: data.Batches


@dataclasses.dataclass(frozen=True)
class Stage:
  """One network to train, or to import.

  Attributes:
    name: Its folder, and its name in metrics, tables and pictures.
    title: What it is, for people.
    model: The network, for training.
    make_method: `() -> method`; called only if the stage has to run.
    epochs: Passes over the training data.
    teacher: Stage whose network it learns from, if any.
    classifies: Whether its classifier was trained, so that accuracy means something.
    variables: Given variables in place of training.
    init_name: Networks of one such name start from the same weights.
  """

  name: str
  title: str
  model: nn.Module
  make_method: Callable[[], methods.Method] | None
  epochs: int
  teacher: str | None = None
  classifies: bool = True
  variables: methods.Variables | None = None
  init_name: str | None = None


class StageRunner:
  """Runs stages in a work directory."""

  def __init__(
    self,
    workdir: Path,
    datasets: Datasets,
    *,
    seed: int,
    measure_every: int,
    checkpoint_seconds: float,
    progress: train.Progress,
    should_stop: Callable[[], str | None],
  ):
    """Nothing is computed or written before `run`."""
    self.workdir = workdir
    self.datasets = datasets
    self.seed = seed
    self.measure_every = measure_every
    self.checkpoint_seconds = checkpoint_seconds
    self.progress = progress
    self.should_stop = should_stop

  def is_done(self, name: str) -> bool:
    """Whether the stage has left its result."""
    return (self.workdir / name / "result.json").exists()

  def network(self, name: str, model: nn.Module) -> methods.Network:
    """The network that a finished stage left.

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
    template = methods.Network(model, _zeros(variables))
    return train.load_network(self.workdir / name / "network", template)

  def run(self, stage: Stage) -> dict[str, Any]:
    """Trains and measures the network unless that is done; returns the result."""
    result_path = self.workdir / stage.name / "result.json"
    if self.is_done(stage.name):
      self.progress.say(f"{stage.title}: done before, in {result_path.parent}")
      return json.loads(result_path.read_text())
    if stage.variables is None:
      network, seconds = self._train(stage)
    else:
      network = methods.Network(stage.model, stage.variables)
      seconds = self._record_imported(stage, network)
    train.save_network(self.workdir / stage.name / "network", network)
    result = {
      **self._evaluate(stage, network),
      "seconds": seconds,
      "epochs": stage.epochs,
      "teacher": stage.teacher,
    }
    write_json(result_path, result)
    shutil.rmtree(self.workdir / stage.name / "checkpoints", ignore_errors=True)
    return result

  def _train(self, stage: Stage) -> tuple[methods.Network, float]:
    assert stage.make_method is not None
    method = stage.make_method()
    measure = _EpochMeasures(stage, self.datasets, self.measure_every)
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
        on_epoch=lambda epoch, method, state: measure(
          epoch, method.export(state)["network"].variables
        ),
        should_stop=self.should_stop,
      )
      state, seconds = train.fit(
        method,
        self.datasets.training,
        epochs=stage.epochs,
        key=self._key(stage.init_name or stage.name),
        options=options,
      )
    return method.export(state)["network"], seconds

  def _record_imported(self, stage: Stage, network: methods.Network) -> float:
    self.progress.say(f"{stage.title}: measuring its information flow")
    began = time.monotonic()
    measure = _EpochMeasures(stage, self.datasets, every=1)
    with train.MetricsWriter(self.workdir, stage.name) as metrics:
      metrics.write(-1, 0, measure(-1, network.variables))
    return time.monotonic() - began

  def _key(self, name: str) -> jax.Array:
    return jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(name.encode()))

  def _evaluate(self, stage: Stage, network: methods.Network) -> dict[str, Any]:
    tap = network.model.taps[-1]
    sides = []
    for what, batches in (
      ("training images", self.datasets.database),
      ("test images", self.datasets.queries),
    ):
      extract = train.FeatureExtractor(
        _for_evaluation(network.model), batches, taps=(tap,)
      )
      counter = self.progress.counter(f"  features of the {what}")
      sides.append(extract(network.variables, counter))
    database, queries = sides
    accuracy = evaluation.accuracy(
      jnp.asarray(queries.logits), jnp.asarray(queries.labels)
    )
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
    return {
      "name": stage.name,
      "title": stage.title,
      "parameters": sum(x.size for x in jax.tree.leaves(network.variables["params"])),
      "accuracy": float(accuracy) if stage.classifies else None,
      "centroid": centroid,
      "retrieval": retrieval,
    }


class _EpochMeasures:
  """Information flow and test accuracy of the network, every few epochs."""

  def __init__(self, stage: Stage, datasets: Datasets, every: int):
    model = _for_evaluation(stage.model)
    self._stage, self._every = stage, every
    self._num_classes = datasets.training.num_classes
    self._probe = train.FeatureExtractor(model, datasets.probe)
    self._queries = train.FeatureExtractor(model, datasets.queries, taps=())

  def __call__(self, epoch: int, variables: methods.Variables) -> Mapping[str, float]:
    last = epoch == self._stage.epochs - 1
    if not last and (epoch + 1) % self._every:
      return {}
    probe = self._probe(variables)
    measured = {}
    for kernel in FLOW_KERNELS:
      values = measure_flow(probe, self._num_classes, kernel)
      measured |= {f"qmi/{kernel}/{tap}": value for tap, value in values.items()}
    if self._stage.classifies:
      queries = self._queries(variables)
      right = queries.logits.argmax(1) == queries.labels
      measured["test_accuracy"] = float(right.mean())
    return measured


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
