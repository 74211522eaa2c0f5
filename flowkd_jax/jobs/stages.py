"""Stages of a job: training, measuring and saving of networks.

While a stage runs, its checkpoints are in `WORKDIR/STAGE/`. When it is done, this
folder holds each network that the method exports, and `results.json`. A finished stage
is not repeated. If its numbers became NaN or infinite, the folder holds
`diverged.json`. Metrics of all stages go to `WORKDIR/metrics.jsonl` and
`WORKDIR/tensorboard/`.
"""

import dataclasses
import math
import shutil
import time
import zlib
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import jax

from flowkd_jax import _files
from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import report
from flowkd_jax import teacher_cache
from flowkd_jax import train
from flowkd_jax.jobs import environment

__all__ = [
  "DIVERGED",
  "EVALUATION_BATCH",
  "RESULTS",
  "CacheOptions",
  "Datasets",
  "Imported",
  "Stage",
  "StageRunner",
  "is_done",
  "read_diverged",
  "read_results",
  "write_json",
]

RESULTS = "results.json"
DIVERGED = "diverged.json"
EVALUATION_BATCH = 512  # images, or fewer if they are too large for the devices


@dataclasses.dataclass(frozen=True)
class Datasets:
  """Batches that all stages share.

  Attributes:
    training: Training examples, shuffled and augmented.
    database: Training examples in order, without augmentation.
    queries: Test examples.
    probe: Some training examples, without augmentation, on which information flow is
      measured.
    validation: Further examples on which accuracy is measured, if any.
    mean: Mean of each channel, in units of 0..255, that normalises all batches.
    std: Standard deviation of each channel, in units of 0..255.
  """

  training: data.Batches
  database: data.Batches
  queries: data.Batches
  probe: data.Batches
  validation: data.Batches | None = None
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Stage:
  """Training stage of a job.

  Attributes:
    name: Name of the stage and its folder, also in metrics, tables and pictures.
    title: Description of the stage, for people.
    make_method: `() -> method`; called only if the stage has to run.
    epochs: Number of passes over the training data.
    teacher: Name of the stage that trains the teacher, if any.
    classifies: True if the stage trains a classifier, so that accuracy is meaningful.
    init_name: Name for the initial weights: stages with equal names start from equal
      weights.
    training: Training batches of this stage; None for the shared ones.
    summarize: Function from the metrics of the epochs to further results, by name.
  """

  name: str
  title: str
  make_method: Callable[[], methods.Method]
  epochs: int
  teacher: str | None = None
  classifies: bool = True
  init_name: str | None = None
  training: data.Batches | None = None
  summarize: Callable[[report.MetricLog], Mapping[str, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class Imported:
  """Network from another source, which is only measured.

  Attributes:
    name: Name of the stage and its folder, also in metrics, tables and pictures.
    title: Description of the network, for people.
    network: The network.
    classifies: True if its classifier was trained, so that accuracy is meaningful.
  """

  name: str
  title: str
  network: methods.Network
  classifies: bool = True


class CacheOptions(NamedTuple):
  """Place and format of the teacher cache.

  Attributes:
    directory: Folder of the cache.
    stored_as: Data type in which outputs are stored.
    max_gib: Size limit in GiB for each teacher.
  """

  directory: Path
  stored_as: str
  max_gib: float


class StageRunner:
  """Runner of stages in a work directory.

  Attributes:
    writes: True if stages may write files before they train, such as a layer map.
  """

  writes = True

  def __init__(
    self,
    workdir: Path,
    datasets: Datasets,
    *,
    seed: int,
    measure_every: int,
    measure: Sequence[str],
    diagnostics: bool,
    cache_options: CacheOptions | None = None,
    options: train.FitOptions,
    progress: train.Progress,
    should_stop: Callable[[], str | None],
  ):
    """Store the options; nothing is computed or written before `run`."""
    self.workdir = workdir
    self.datasets = datasets
    self.seed = seed
    self.measure_every = measure_every
    self.measure = measure
    self.diagnostics = diagnostics
    self.cache_options = cache_options
    self.options = options
    self.progress = progress
    self.should_stop = should_stop
    self._on_devices: dict[data.Batches, train.PlacedImages] = {}
    # Stages that run before the one that is checked; None outside `check`.
    self._earlier: set[str] | None = None

  def is_done(self, name: str) -> bool:
    """Returns whether the stage is finished."""
    return is_done(self.workdir, name)

  def network(
    self, name: str, model: capture.AnyModel, exported: str = "network"
  ) -> methods.Network:
    """Network of a finished stage, for evaluation: not bound to a mapped axis.

    Args:
      name: Name of the stage.
      model: The network without its variables.
      exported: Name of the network among the networks that the method exports.

    Raises:
      ValueError: If the stage has not been run.
    """
    image_shape = self.datasets.training.image_shape
    if self.is_expected(name):
      return train.blank_network(model, image_shape=image_shape)
    if not self.is_done(name):
      raise ValueError(
        f"stage {name} has not been run in {self.workdir}, and a later stage learns "
        f"from it: add {name} to --stages, or leave --stages away to run all"
      )
    return train.network_in_workdir(
      self.workdir,
      name,
      model,
      image_shape=image_shape,
      exported=exported,
    )

  def is_expected(self, name: str) -> bool:
    """Returns whether a stage will run before the stage that is checked now."""
    return name in (self._earlier or ()) and not self.is_done(name)

  @property
  def is_checking(self) -> bool:
    """True if methods are only checked: nothing may be computed or written."""
    return self._earlier is not None

  def check(self, chosen: Sequence[Stage | Imported]) -> None:
    """Check all stages before anything is written.

    The method of each stage that has to run is made, and one step is traced, with zeros
    for networks of earlier stages. Finished stages must have been trained with the same
    data, batches and key.

    Raises:
      ValueError: If a method cannot be made or traced. The message names the stage.
    """
    self._earlier = set()
    try:
      for stage in chosen:
        if isinstance(stage, Stage):
          self._check(stage)
        self._earlier.add(stage.name)
    finally:
      self._earlier = None

  def _check(self, stage: Stage) -> None:
    training = stage.training or self.datasets.training
    if self.is_done(stage.name):
      key = self._key(stage.init_name or stage.name)
      train.check_same_run(self.workdir, stage.name, training, key)
      return
    method = stage.make_method()
    try:
      train.check_method(method, training, parallelism=self.options.parallelism)
    except ValueError as error:
      raise ValueError(f"stage {stage.name}: {error}") from error

  def metrics(self, name: str) -> list[dict[str, Any]]:
    """Metrics of the epochs of a stage, in order. Epoch -1 is before training."""
    entries = report.read_metrics(self.workdir)
    return [entry for entry in entries if entry["stage"] == name]

  def run(self, stage: Stage | Imported) -> list[dict[str, Any]]:
    """Train and measure the networks unless the stage is finished; return results.

    Raises:
      NonFiniteError: If the training diverged; `read_diverged` finds the record.
    """
    folder = self.workdir / stage.name
    # The first process writes files that all processes read.
    train.wait_for_processes(f"before {stage.name}")
    try:
      return self._run(stage, folder)
    except train.NonFiniteError as error:
      # Without the advice, which names folders of this machine.
      found, _, _ = str(error).partition("; ")
      record = {"name": stage.name, "title": stage.title, "error": found}
      write_json(folder / DIVERGED, record)
      raise

  def _run(self, stage: Stage | Imported, folder: Path) -> list[dict[str, Any]]:
    if self.is_done(stage.name):
      self.progress.say(f"{stage.title}: done before, in {folder}")
      return read_results(self.workdir, stage.name)
    times = train.Times()
    if isinstance(stage, Imported):
      networks = {"network": stage.network}
      with times.spent(train.MEASURING):
        seconds = self._record_imported(stage, networks)
      about: dict[str, Any] = {"epochs": 0, "teacher": None}
    else:
      networks, seconds = self._train(stage, times)
      about = {"epochs": stage.epochs, "teacher": stage.teacher}
      if stage.summarize is not None:
        about |= stage.summarize(self.metrics(stage.name))
    with times.spent(train.MEASURING):
      measured = {
        exported: self._evaluate(network, classifies=stage.classifies)
        for exported, network in networks.items()
      }
    spent = times.seconds()
    about |= {"seconds": seconds, "times": spent}
    about["environment"] = environment.environment()
    results = []
    for exported, values in measured.items():
      suffix = "" if len(networks) == 1 else exported
      names = {
        "name": "/".join(filter(None, (stage.name, suffix))),
        "title": ", ".join(filter(None, (stage.title, suffix))),
      }
      results.append({**names, **values, **about})
    write_json(folder / RESULTS, results)
    if train.is_first_process():
      (folder / DIVERGED).unlink(missing_ok=True)  # of an earlier attempt
      shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    self.progress.say(f"{stage.title}: {_in_words(spent)}")
    return results

  def _train(self, stage: Stage, times: train.Times) -> train.TrainedNetworks:
    method = stage.make_method()
    training = self._with_teacher(stage, method)
    measure = self._measures(stage.classifies, last=stage.epochs - 1)
    observe = None
    if self.diagnostics:
      observe = train.Diagnostics(method, training, **self._mapped)

    def on_epoch(epoch, method, state):
      measured = measure(epoch, method, state)
      # Diagnostics are computed only in measured epochs.
      return measured | observe(state) if observe and measured else measured

    options = dataclasses.replace(
      self.options,
      progress=self.progress,
      title=stage.title,
      times=times,
      on_epoch=on_epoch,
      should_stop=self.should_stop,
    )
    return train.fit_in_workdir(
      self.workdir,
      stage.name,
      method,
      training,
      epochs=stage.epochs,
      key=self._key(stage.init_name or stage.name),
      options=options,
    )

  @property
  def _mapped(self) -> dict[str, Any]:
    """Arguments that set how steps are mapped over devices."""
    return {"parallelism": self.options.parallelism, "shard": self.options.shard}

  def _with_teacher(self, stage: Stage, method: methods.Method) -> data.Batches:
    """Training batches, with outputs of the teacher if there is a cache."""
    training = stage.training or self.datasets.training
    if self.cache_options is None or method.teacher is None:
      if self.cache_options is not None and stage.teacher is not None:
        self.progress.say(f"{stage.title}: this method cannot use the teacher cache")
      return training
    directory, stored_as, max_gib = self.cache_options
    return teacher_cache.open_cache(
      directory,
      training,
      method.teacher,
      epochs=stage.epochs,
      stored_as=stored_as,
      max_gib=max_gib,
      say=self.progress.say,
      **self._mapped,
    )

  def _record_imported(
    self, stage: Imported, networks: Mapping[str, methods.Network]
  ) -> float:
    self.progress.say(f"{stage.title}: measuring its information flow")
    began = time.monotonic()
    with train.MetricsWriter(self.workdir, stage.name) as metrics:
      metrics.write(-1, 0, self._measures(stage.classifies).of(networks))
    for exported, network in networks.items():
      train.save_network(self.workdir / stage.name / exported, network)
    return time.monotonic() - began

  def _measures(self, classifies: bool, last: int | None = None) -> train.EpochMeasures:
    datasets = self.datasets
    accuracies = {"test_accuracy": datasets.queries} if classifies else {}
    if classifies and datasets.validation is not None:
      accuracies["validation_accuracy"] = datasets.validation
    return train.EpochMeasures(
      self._placed(datasets.probe) if self._measures_flow else None,
      accuracies={name: self._placed(images) for name, images in accuracies.items()},
      dead_units=self.diagnostics,
      every=self.measure_every,
      last=last,
      **self._mapped,
    )

  @property
  def _measures_flow(self) -> bool:
    return "flow" in self.measure

  def _placed(self, batches: data.Batches) -> train.PlacedImages:
    """Data set on the devices; placed once for all stages."""
    if batches not in self._on_devices:
      placed = train.PlacedImages(batches, parallelism=self.options.parallelism)
      self._on_devices[batches] = placed
    return self._on_devices[batches]

  def _key(self, name: str) -> jax.Array:
    return jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(name.encode()))

  def _evaluate(self, network: methods.Network, *, classifies: bool) -> dict[str, Any]:
    datasets = self.datasets
    retrieves = "retrieval" in self.measure
    measured = train.evaluate_network(
      network,
      self._placed(datasets.database) if retrieves else None,
      self._placed(datasets.queries),
      classifies=classifies,
      # With all taps, this is the compiled program that measured the epochs.
      all_taps=self._measures_flow,
      progress=self.progress,
      **self._mapped,
    )
    if datasets.validation is not None and classifies:
      extract = train.FeatureExtractor(
        train.for_evaluation(network.model),
        self._placed(datasets.validation),
        taps=None if self._measures_flow else (),
        keep=(),
        **self._mapped,
      )
      measured["validation_accuracy"] = extract(network.variables).accuracy
    return measured


def is_done(workdir: Path, name: str) -> bool:
  """Returns whether a stage is finished in that work directory."""
  return (workdir / name / RESULTS).exists()


def read_results(workdir: Path, name: str) -> list[dict[str, Any]]:
  """Results of the networks of a finished stage.

  Raises:
    ValueError: If the file is damaged, or does not hold results of a stage.
  """
  path = workdir / name / RESULTS
  remedy = f"restore a copy, or delete {path.parent} to train the stage again"
  networks = _files.read_json(path, remedy)
  if not isinstance(networks, list):
    raise ValueError(
      f"{path}: expected the results of a stage, got {str(networks)[:60]!r}; {remedy}"
    )
  return networks


def read_diverged(workdir: Path, name: str) -> dict[str, str] | None:
  """Name, title and error of a stage that diverged; None if it did not.

  Raises:
    ValueError: If the file is damaged.
  """
  path = workdir / name / DIVERGED
  if is_done(workdir, name) or not path.exists():
    return None
  remedy = "delete it, and run the job again"
  record = _files.read_json(path, remedy)
  if not isinstance(record, dict) or not {"name", "title", "error"} <= {*record}:
    raise ValueError(
      f"{path}: expected the record of a stage that diverged, got "
      f"{str(record)[:60]!r}; {remedy}"
    )
  return record


def _in_words(times: Mapping[str, float]) -> str:
  """Line with the seconds spent on each part of a stage."""
  parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in times.items())
  return f"{sum(times.values()):.1f} s: {parts}"


def write_json(path: Path, content: Mapping[str, Any] | list[dict[str, Any]]) -> None:
  """Write JSON with a checksum; only the first process writes.

  NaN and infinities, which JSON lacks, become null.
  """
  if train.is_first_process():
    _files.write_json(path, _without_nan(content))


def _without_nan(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _without_nan(entry) for key, entry in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(entry) for entry in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
