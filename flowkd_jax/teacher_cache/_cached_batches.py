"""Batches that bring along what a frozen teacher makes of them, from a cache.

A network of any framework can fill one, and a student learn from that alone:

    cache = teacher_cache.TeacherCache(
      directory,
      key=teacher_cache.cache_key(batches, "ResNet-50, PyTorch"),
      row_shapes={"logits": (10,), "taps/pooled": (2048,)},
      num_examples=batches.num_examples,
    )
    prepare = jax.jit(batches.prepare)
    for epoch in range(epochs):  # one, if images are not augmented
      for rows in batches.epoch(epoch):
        images = np.asarray(prepare(batches.resident, rows)["image"])
        cache.write(epoch, rows["index"], {"logits": ..., "taps/pooled": ...})

with `batches` those of the training (of a job, `jobs.job_run.open_datasets`): same
data, normalisation, augmentation and seed. `recorded_teacher` then stands for
the network, and `flowkd train information_flow --learn_from=recorded` trains from it.
"""

import functools
import hashlib
import re
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flowkd_jax import data
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax.teacher_cache import _function_hash
from flowkd_jax.teacher_cache._recorded import RecordedTeacher
from flowkd_jax.teacher_cache._storage import CACHE_DTYPES
from flowkd_jax.teacher_cache._storage import TeacherCache
from flowkd_jax.teacher_cache._storage import describe_cache
from flowkd_jax.teacher_cache._teacher import TEACHER
from flowkd_jax.teacher_cache._teacher import Network
from flowkd_jax.teacher_cache._teacher import Teacher
from flowkd_jax.teacher_cache._teacher import teacher_outputs

CacheableBatches = data.MemoryBatches | data.StreamBatches

_GIB = 2**30
_RESERVE = _GIB  # of the disk, left for checkpoints and others
_SAMPLED = 1024  # examples by which a data set that is not in memory is known


class CachedBatches:
  """`Batches` with the outputs of a method's teacher, computed once and kept.

  A method that finds them in its batch does not apply the teacher. Rows that the
  cache lacks are computed, in the batch in which they are asked for, and kept: the
  first run fills the cache and later ones, of other methods too, read it. An output
  depends on teacher, example and augmentation, not on the order of the examples.
  """

  def __init__(
    self,
    batches: CacheableBatches,
    teacher: Teacher,
    cache: TeacherCache,
    *,
    max_epochs: int | None = None,
    say: Callable[[str], None] = print,
    devices: Sequence[Any] | None = None,
    parallelism: parallel.Mode = "pmap",
    shard: parallel.ShardRule | None = None,
  ):
    """Reads and computes nothing yet.

    Args:
      batches: The training batches.
      teacher: Teacher of the method: `method.teacher`.
      cache: Opened with `cache_key` of both and the `output_shapes` of the teacher.
      max_epochs: Epochs that are kept; those after them are computed.
      say: Gets a sentence if the disk is full.
      devices: This process's devices, all by default.
      parallelism: Mapping of batches over devices: "pmap" or "jit".
      shard: Rule by which the teacher's variables are sharded, for "jit"; their names
        begin with "constants", as in a training step.
    """
    parallel.check_mode(parallelism, shard, name="parallelism")
    self._batches, self._teacher, self._cache = batches, teacher, cache
    self._max_epochs, self._say = max_epochs, say
    self._devices = list(devices or jax.local_devices())
    self._parallelism: parallel.Mode = parallelism
    self._shard = shard
    self._dtypes = {
      name: shape.dtype for name, shape in output_shapes(teacher, batches).items()
    }

  @property
  def num_examples(self) -> int:
    """Number of examples of the batches."""
    return self._batches.num_examples

  @property
  def num_classes(self) -> int:
    """Number of classes of the batches."""
    return self._batches.num_classes

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Shape of an image of the batches."""
    return self._batches.image_shape

  @property
  def batch_size(self) -> int:
    """Rows of a batch."""
    return self._batches.batch_size

  @property
  def steps_per_epoch(self) -> int:
    """Steps of an epoch of the batches."""
    return self._batches.steps_per_epoch

  @property
  def resident(self) -> Mapping[str, np.ndarray]:
    """Resident arrays of the batches; teacher and student share them on the devices."""
    return self._batches.resident

  @property
  def row_arrays(self) -> tuple[str, ...]:
    """Arrays of the batches with one row per example."""
    return getattr(self._batches, "row_arrays", ())

  @functools.cached_property
  def _resident(self):
    return parallel.share(
      self._batches.resident,
      self._devices,
      rows_of=self.row_arrays,
      mode=self._parallelism,
    )

  def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Rows of the batches, with the teacher's outputs beside them."""
    shared = epoch if is_augmented(self._batches) else 0
    for rows in self._batches.epoch(epoch, start_step):
      outputs = self._cache.read(shared, rows["index"])
      if outputs is None:
        outputs = self._computed(rows)
        self._keep(shared, rows["index"], outputs)
      named = {f"{TEACHER}{name}": rows for name, rows in outputs.items()}
      yield {**rows, **named}

  def is_complete(self, epoch: int) -> bool:
    """Returns whether the cache has the outputs for all examples of this epoch."""
    return self._cache.is_complete(epoch if is_augmented(self._batches) else 0)

  def prepare(
    self, resident: Mapping[str, Array], batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Prepares the batches, with the teacher's outputs in the type they had."""
    outputs = {
      f"{TEACHER}{name}": jnp.asarray(batch[f"{TEACHER}{name}"]).astype(dtype)
      for name, dtype in self._dtypes.items()
    }
    return {**self._batches.prepare(resident, batch), **outputs}

  def _keep(self, epoch, index, outputs):
    if self._max_epochs is not None and epoch >= self._max_epochs:
      return
    try:
      self._cache.write(epoch, index, outputs)
    except OSError as error:
      self._max_epochs = 0
      self._say(
        f"warning: the teacher cache {self._cache.directory} cannot grow ({error}); "
        "what it lacks is computed"
      )

  @functools.cached_property
  def _apply(self):
    def apply(variables, resident, rows):
      images = self._batches.prepare(self._resident.opened(resident), rows)["image"]
      return teacher_outputs(self._teacher, variables, images)

    return parallel.map_step(
      apply,
      (None, self._resident.in_axes, 0),
      devices=self._devices,
      mode=self._parallelism,
    )

  @functools.cached_property
  def _variables(self):
    variables = dict(self._teacher.network.variables)
    return parallel.place(variables, self._devices, shard=self._shard, name="constants")

  def _computed(self, rows) -> dict[str, np.ndarray]:
    if isinstance(self._teacher.network.model, RecordedTeacher):
      raise ValueError(
        f"{self._cache.directory} lacks outputs for some examples of epoch "
        f"{int(rows['epoch'][0])}, and there is no network to compute them; record "
        "more epochs, or train for fewer"
      )
    split = parallel.split_rows(rows, len(self._devices))
    outputs = jax.device_get(self._apply(self._variables, self._resident.arrays, split))
    # As they will be read: the run that fills the cache is like those that read it.
    stored_as = CACHE_DTYPES[self._cache.stored_as]
    return {
      name: array.reshape(-1, *array.shape[2:]).astype(stored_as)
      for name, array in outputs.items()
    }


def without_cache(batches: data.Batches) -> data.Batches:
  """The batches that a cache of teacher outputs wraps, or the batches themselves."""
  return batches._batches if isinstance(batches, CachedBatches) else batches


def open_cache(
  directory: Path,
  batches: data.Batches,
  teacher: Teacher | None,
  *,
  epochs: int,
  stored_as: str = "float32",
  max_gib: float = 20.0,
  say: Callable[[str], None] = print,
  parallelism: parallel.Mode = "pmap",
  shard: parallel.ShardRule | None = None,
) -> CachedBatches:
  """The batches with the teacher's outputs, and a word on the disk they take.

  Every teacher, data set, augmentation and type has a folder of its own, named after
  their hash; that of a recorded teacher is `directory` itself.

  Args:
    directory: The folder of caches.
    batches: The training batches.
    teacher: `method.teacher`.
    epochs: Epochs of the training.
    stored_as: float32, float16 or bfloat16.
    max_gib: Limit of the folder of this teacher, in GiB.
    say: Gets what to expect before it begins, and warnings.
    parallelism: As for `CachedBatches`.
    shard: As for `CachedBatches`.

  Raises:
    ValueError: If there is no teacher, not even one epoch fits, or the folder holds
      something else.
    TypeError: If the batches are not rows of images.
  """
  checks.check_positive("max_gib", max_gib)
  if teacher is None:
    raise ValueError(
      "teacher: expected a method that reads a frozen teacher's outputs on the images "
      "of its batch, got one that does not"
    )
  if not isinstance(batches, CacheableBatches):
    raise TypeError(
      f"teacher cache: expected batches of images, got {type(batches).__name__}"
    )
  shapes = {name: x.shape[1:] for name, x in output_shapes(teacher, batches).items()}
  recorded = isinstance(teacher.network.model, RecordedTeacher)
  if recorded:
    described = describe_cache(directory)
    key = cache_key(batches, described["key"].get("teacher", ""))
    folder, stored_as = directory, described["stored_as"]
  else:
    key = cache_key(batches, teacher)
    named = hashlib.sha256(repr((sorted(key.items()), stored_as)).encode())
    folder = directory / named.hexdigest()[:16]
  cache = TeacherCache(
    folder,
    key=key,
    row_shapes=shapes,
    num_examples=batches.num_examples,
    stored_as=stored_as,
  )
  needed = epochs if is_augmented(batches) else 1
  kept = needed if recorded else _epochs_that_fit(cache, needed, max_gib)
  say(
    f"teacher cache {folder}: {', '.join(shapes)} as {stored_as}, "
    f"{cache.epoch_bytes / _GIB:.2f} GiB an epoch"
    + (f", {needed * cache.epoch_bytes / _GIB:.1f} GiB in all" if needed > 1 else "")
    + (f"; the first {kept} of {needed} epochs are kept" if kept < needed else "")
  )
  return CachedBatches(
    batches,
    teacher,
    cache,
    max_epochs=kept,
    say=say,
    parallelism=parallelism,
    shard=shard,
  )


def cache_key(batches: CacheableBatches, teacher: Teacher | str) -> dict[str, Any]:
  """Key of a cache: hashes of teacher and data, and the augmentation.

  Args:
    batches: The training batches.
    teacher: The network, or what to call one of another framework.
  """
  augmentation = None
  if is_augmented(batches):
    options = batches.augmentation.recorded()
    flip, padding = options.pop("flip"), options.pop("padding")
    augmentation = [batches.seed, flip, padding, *([options] if options else [])]
  return {
    "teacher": teacher if isinstance(teacher, str) else _network_hash(teacher.network),
    "data": data_hash(batches),
    "augmentation": augmentation,
  }


def is_augmented(batches: CacheableBatches) -> bool:
  """Returns whether an example looks different in every epoch."""
  return batches.augmentation != data.Augmentation()


def data_hash(batches: CacheableBatches) -> str:
  """Hash of images, labels and normalisation; of some examples if they are streamed."""
  source = batches.source
  count = source.num_examples
  whole = isinstance(source, data.Split)
  numbers = np.arange(count)
  if not whole:
    numbers = np.unique(np.linspace(0, count - 1, _SAMPLED).astype(int))
  digest = hashlib.sha256(repr((count, whole)).encode())
  for start in range(0, len(numbers), _SAMPLED):
    for array in source.read(numbers[start : start + _SAMPLED]):
      digest.update(array.tobytes())
  about = tuple(map(float, batches.mean)), tuple(map(float, batches.std))
  digest.update(repr((about, np.dtype(batches.dtype).name)).encode())
  return digest.hexdigest()[:32]


def _network_hash(network: Network) -> str:
  """Hash of the weights and of the model's description."""
  description = re.sub(r" at 0x[0-9a-f]+", "", repr(network.model))
  digest = hashlib.sha256(description.encode())
  digest.update(_function_hash.hash_functions(network.model).encode())
  for path, leaf in jax.tree.leaves_with_path(dict(network.variables)):
    array = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:32]


def output_shapes(
  teacher: Teacher, batches: data.Batches
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a teacher's outputs for one example of the batches, by name."""
  images = jax.ShapeDtypeStruct((1, *batches.image_shape), jnp.float32)
  variables = dict(teacher.network.variables)
  shapes = jax.eval_shape(
    lambda v, x: teacher_outputs(teacher, v, x), variables, images
  )
  # A dictionary that was traced is sorted: taps from input to output again.
  return {
    name: shapes[name] for name in ("logits", *(f"taps/{t}" for t in teacher.taps))
  }


def _epochs_that_fit(cache: TeacherCache, needed: int, max_gib: float) -> int:
  """Number of epochs, from the first on, that fit the limit and this disk."""
  existing = sum(cache.has_epoch(epoch) for epoch in range(needed))
  free = shutil.disk_usage(cache.directory).free
  on_disk = existing + int(max(free - _RESERVE, 0) // cache.epoch_bytes)
  allowed = min(int(max_gib * _GIB // cache.epoch_bytes), on_disk)
  if allowed < 1:
    raise ValueError(
      f"teacher cache {cache.directory}: one epoch takes "
      f"{cache.epoch_bytes / _GIB:.3f} GiB, allowed are {max_gib} and "
      f"{free / _GIB:.1f} are free; allow more, store float16 or bfloat16, learn from "
      "fewer taps, or train without a cache"
    )
  return min(allowed, needed)
