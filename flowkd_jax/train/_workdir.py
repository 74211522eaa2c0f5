"""Training of networks in a work directory, and reading them back.

A work directory holds:

    WORKDIR/metrics.jsonl         metrics of every epoch of all networks
    WORKDIR/tensorboard/NAME/     metrics for TensorBoard
    WORKDIR/NAME/checkpoints/     checkpoints to resume from
    WORKDIR/NAME/run.json         record of data, batches and random key
    WORKDIR/NAME/network/         trained network; a method may export several
    WORKDIR/.lock                 lock of the run that writes to the work directory
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax.train import _checkpoint
from flowkd_jax.train import _features
from flowkd_jax.train import _lock
from flowkd_jax.train import _loop
from flowkd_jax.train import _metrics
from flowkd_jax.train import _network_files
from flowkd_jax.train import _options
from flowkd_jax.train import _processes
from flowkd_jax.train import _record


class TrainedNetworks(NamedTuple):
  """Result of `fit_in_workdir`.

  Attributes:
    networks: Exported networks of the method, by name.
    seconds: Total time in seconds, including earlier calls if the run was resumed.
  """

  networks: Mapping[str, methods.Network]
  seconds: float


def fit_in_workdir(
  workdir: str | Path,
  name: str,
  method: methods.Method,
  batches: data.Batches,
  *,
  epochs: int,
  key: jax.Array,
  options: _options.FitOptions | None = None,
) -> TrainedNetworks:
  """Train like `fit`, with checkpoints, metrics and networks in a work directory.

  To resume an interrupted run, call the function again. If the last epoch is done, it
  only reads the results. With more epochs than before, it continues the training, with
  the schedules of the given method. `flowkd_jax.report` reads the metrics, and
  `network_in_workdir` reads a network.

  Args:
    workdir: The work directory; created if it does not exist.
    name: Name of the method's networks in the work directory.
    method: See `fit`.
    batches: See `fit`.
    epochs: See `fit`.
    key: See `fit`.
    options: Options of `fit`, except checkpoints and metrics, which are those of the
      work directory. The default title is `name`.

  Raises:
    ValueError: As in `fit`; if another run writes to the work directory; if data,
      batches or key differ from those of the earlier calls; if stored files are
      damaged; or if Orbax cannot use a folder of that name.
    NonFiniteError: As in `fit`.
    Interrupted: As in `fit`.
  """
  options = options or _options.FitOptions()
  untitled = options.title == _options.FitOptions.title
  folder = _checkpoint.check_folder(Path(workdir) / name, name="workdir, name")
  record = _record.describe_run(batches, key)
  _processes.check_same_settings({**record, "name": name, "epochs": epochs})
  with (
    _lock.lock_workdir(workdir),
    _checkpoint.Checkpoints(folder / "checkpoints") as checkpoints,
    _metrics.MetricsWriter(workdir, name) as metrics,
  ):
    # Without a checkpoint nothing was trained: an older record is of a refused run.
    if checkpoints.latest is None:
      _record.write_record(folder, record)
    _record.check_record(folder, record)
    options = dataclasses.replace(
      options,
      checkpoints=checkpoints,
      metrics=metrics,
      title=name if untitled else options.title,
    )
    state, seconds = _loop.fit(method, batches, epochs=epochs, key=key, options=options)
    networks = method.export(state)
    for exported, network in networks.items():
      _network_files.save_network(folder / exported, network)
  return TrainedNetworks(networks, seconds)


def check_same_run(
  workdir: str | Path, name: str, batches: data.Batches, key: jax.Array
) -> None:
  """Check that networks were trained with given data, batches and random key.

  Networks of version 0.1 have no record; for them nothing is checked.

  Args:
    workdir: The work directory.
    name: Name of the networks in the work directory.
    batches: Training batches.
    key: Random key of the run.

  Raises:
    ValueError: If the networks were trained with other data, batches or key (the
      message gives both values), or if the record is damaged.
  """
  record = _record.describe_run(batches, key)
  _record.check_record(Path(workdir) / name, record)


def network_in_workdir(
  workdir: str | Path,
  name: str,
  model: capture.AnyModel,
  *,
  image_shape: tuple[int, ...],
  exported: str = "network",
) -> methods.Network:
  """Load a network from a work directory, for evaluation: bound to no mapped axis.

  Args:
    workdir: The work directory.
    name: Name that `fit_in_workdir` got.
    model: The network without its variables.
    image_shape: Height, width and channels of the images.
    exported: Name of the network among the networks that the method exports.

  Raises:
    FileNotFoundError: If there is no such network.
    ValueError: If the stored variables belong to another network.
  """
  template = blank_network(model, image_shape=image_shape)
  return _network_files.load_network(Path(workdir) / name / exported, template)


def blank_network(
  model: capture.AnyModel, *, image_shape: tuple[int, ...]
) -> methods.Network:
  """Network with variables of zeros, in the shapes of the trained variables.

  Args:
    model: The network without its variables.
    image_shape: Height, width and channels of the images.
  """
  images = jax.ShapeDtypeStruct((2, *image_shape), np.float32)
  shapes = jax.eval_shape(
    lambda key, images: capture.init(model, key, images), jax.random.key(0), images
  )
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  return methods.Network(_features.for_evaluation(model), zeros)
