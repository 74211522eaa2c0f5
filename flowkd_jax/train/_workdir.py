"""Networks under a name in a work directory: trained there, read from there.

WORKDIR/metrics.jsonl         metrics of every epoch of all networks
WORKDIR/tensorboard/NAME/     the same, for TensorBoard
WORKDIR/NAME/checkpoints/     to go on with
WORKDIR/NAME/run.json         data, batches and key that it was trained with
WORKDIR/NAME/network/         what has been trained; a method may export several
WORKDIR/.lock                 held by the run that writes there
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
    seconds: Time spent in all, in earlier calls too if the run was resumed.
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
  """`fit`, with checkpoints, metrics and the networks kept in a work directory.

  Call it again after any interruption, and it goes on where it was; after the last
  epoch it only reads what it has kept. More epochs than before continue the training,
  with whatever schedules the method has now. The functions of `flowkd_jax.report` read
  the metrics, `network_in_workdir` a network.

  Args:
    workdir: The work directory; made if it does not exist.
    name: Name of the method's networks there.
    method: As in `fit`.
    batches: As in `fit`.
    epochs: As in `fit`.
    key: As in `fit`.
    options: As in `fit`, but for checkpoints and metrics, which are the work
      directory's; the bar is called `name` unless they have a title.

  Raises:
    ValueError: As in `fit`; or another run writes there, data, batches or key are not
      those that the networks of that name were trained with so far, what is stored is
      damaged, or Orbax cannot use a folder of that name.
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
    # Without a checkpoint nothing was trained: the record is that of a refused run.
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
  """Checks that the networks of a name were trained with these data, batches and key.

  Nothing is checked if version 0.1 trained them, which kept no record of that.

  Args:
    workdir: The work directory.
    name: Name of the networks there.
    batches: The training batches.
    key: Random key of the run.

  Raises:
    ValueError: If they were trained with others, with both values; or if the record is
      damaged.
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
  """A network that was trained in a work directory, frozen: bound to no mapped axis.

  Args:
    workdir: The work directory.
    name: Name of its method there.
    model: The network without its variables.
    image_shape: Height, width and channels of its images.
    exported: Its name among those that the method exports.

  Raises:
    FileNotFoundError: If there is no such network.
    ValueError: If it is another model's.
  """
  template = blank_network(model, image_shape=image_shape)
  return _network_files.load_network(Path(workdir) / name / exported, template)


def blank_network(
  model: capture.AnyModel, *, image_shape: tuple[int, ...]
) -> methods.Network:
  """A frozen network of zeros, of the shapes that the trained one will have.

  Args:
    model: The network without its variables.
    image_shape: Height, width and channels of its images.
  """
  images = jax.ShapeDtypeStruct((2, *image_shape), np.float32)
  shapes = jax.eval_shape(
    lambda key, images: capture.init(model, key, images), jax.random.key(0), images
  )
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  return methods.Network(_features.for_evaluation(model), zeros)
