"""Training on recorded outputs of the teacher against training with the teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import teacher_cache
from flowkd_jax import train
from flowkd_jax.teacher_cache import cache_key

pytestmark = pytest.mark.optimizer
PAIRS = {"block_1": "block_1", "dense": "dense"}


def _teacher(seed=1):
  model = models.by_name("digits_cnn:4", num_classes=3)
  return methods.Network(
    model, capture.init(model, jax.random.key(seed), jnp.zeros((2, 8, 8, 1)))
  )


def _flow(teacher):
  return methods.information_flow(
    models.by_name("digits_cnn:2", num_classes=3, axis_name="batch"),
    teacher,
    optax.adam(1e-2),
    pairs=PAIRS,
    weights=dict.fromkeys(PAIRS, 1.0),
  )


def _trained(method, batches, *, epochs=2, options=None):
  key = jax.random.key(0)
  fitted = train.fit(method, batches, epochs=epochs, key=key, options=options)
  return jax.device_get(jax.tree.leaves(fitted.state.params))


def _opened(path, batches, method, **options):
  said = []
  options = {"epochs": 2, "say": said.append, **options}
  return teacher_cache.open_cache(path, batches, method.teacher, **options), said


def _forbid(*args):
  raise AssertionError("the teacher was applied")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
  return tmp_path_factory.mktemp("caches")


@pytest.mark.cpu("a GPU need not repeat an update to the bit")
@pytest.mark.slow
def test_cached_training_is_training_to_the_bit(batches, filled, monkeypatch):
  method = _flow(_teacher())
  expected = _trained(method, batches)
  filling, said = _opened(filled, batches, method)
  first = _trained(method, filling)
  assert len(said) == 1
  assert "logits, taps/block_1, taps/dense as float32, 0.00 GiB an epoch" in said[0]
  reading, _ = _opened(filled, batches, method)
  monkeypatch.setattr(teacher_cache.CachedBatches, "_computed", _forbid)
  second = _trained(method, reading)
  for ours, theirs, plain in zip(second, first, expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours, plain)


@pytest.mark.slow
def test_outputs_are_those_of_the_augmented_images(batches, filled):
  method = _flow(_teacher())
  cached, _ = _opened(filled, batches, method)
  rows = [*cached.epoch(1)][2]
  prepared = jax.jit(cached.prepare)(cached.resident, rows)
  expected = teacher_cache.teacher_outputs(
    method.teacher, method.constants, prepared["image"]
  )
  for name, value in expected.items():
    np.testing.assert_allclose(
      prepared[f"teacher/{name}"], value, rtol=1e-4, atol=1e-5, err_msg=name
    )


@pytest.mark.slow
def test_other_methods_and_batch_sizes_read_what_is_there(
  split, batches, filled, monkeypatch
):
  monkeypatch.setattr(teacher_cache.CachedBatches, "_computed", _forbid)
  student = models.by_name("digits_cnn:2", num_classes=3, axis_name="batch")
  method = methods.knowledge_distillation(student, _teacher(), optax.sgd(0.1))
  larger = dataclasses.replace(batches, batch_size=24)
  cached, _ = _opened(filled, larger, method)
  _trained(method, cached)


@pytest.mark.slow
def test_another_teacher_seed_or_augmentation_is_computed_anew(batches, tmp_path):
  folders = set()
  method = _flow(_teacher())
  for other, teacher in (
    (batches, method.teacher),
    (batches, _flow(_teacher(seed=2)).teacher),
    (dataclasses.replace(batches, seed=1), method.teacher),
    (dataclasses.replace(batches, mean=(100,)), method.teacher),
    (
      dataclasses.replace(batches, augmentation=data.Augmentation(padding=1)),
      method.teacher,
    ),
    (
      dataclasses.replace(batches, augmentation=data.Augmentation(min_area=0.5)),
      method.teacher,
    ),
  ):
    folders.add(repr(cache_key(other, teacher)))
  assert len(folders) == 6
  again = cache_key(batches, _flow(_teacher()).teacher)
  assert repr(again) in folders


def _pooled(teacher, weight):
  return teacher._replace(
    model=capture.pooled(teacher.model, lambda tap: weight * tap.mean((1, 2)))
  )


@pytest.mark.slow
def test_teachers_that_differ_in_a_function_share_no_cache(batches):
  weights = jnp.ones(()), 2 * jnp.ones(()), 3.0
  teachers = [_pooled(_teacher(), weight) for weight in weights]
  teachers += [
    methods.Network(capture.with_logits(_teacher().model, choose), _teacher().variables)
    for choose in (0, "logits", lambda x: x, lambda x: -x)
  ]
  keys = [cache_key(batches, _flow(teacher).teacher) for teacher in teachers]
  assert len({repr(key) for key in keys}) == len(teachers)
  again = cache_key(batches, _flow(_pooled(_teacher(), weights[1])).teacher)
  assert again == keys[1]


@pytest.mark.slow
def test_without_augmentation_one_epoch_serves_all(batches, tmp_path, monkeypatch):
  method = _flow(_teacher())
  plain = dataclasses.replace(batches, augmentation=data.Augmentation())
  cached, _ = _opened(tmp_path, plain, method)
  list(cached.epoch(0))
  monkeypatch.setattr(teacher_cache.CachedBatches, "_computed", _forbid)
  assert len([*cached.epoch(7)]) == 3
  assert len([*tmp_path.glob("*/logits/*.npy")]) == 2


@pytest.mark.slow
def test_interrupted_filling_goes_on(batches, tmp_path):
  method = _flow(_teacher())
  expected = _trained(method, batches)
  stops = iter([None, None, "SIGTERM"])
  with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
    options = train.FitOptions(
      checkpoints=checkpoints, should_stop=lambda: next(stops, None)
    )
    cached, _ = _opened(tmp_path / "cache", batches, method)
    with pytest.raises(train.Interrupted):
      _trained(method, cached, options=options)
    cached, _ = _opened(tmp_path / "cache", batches, method)
    resumed = _trained(method, cached, options=options)
  jax.tree.map(np.testing.assert_array_equal, resumed, expected)


@pytest.mark.slow
def test_half_precision_is_near_and_the_same_when_read_again(batches, tmp_path):
  method = _flow(_teacher())
  exact, _ = _opened(tmp_path, batches, method)
  half, _ = _opened(tmp_path, batches, method, stored_as="bfloat16")
  read, _ = _opened(tmp_path, batches, method, stored_as="bfloat16")
  for rows, rounded in zip(exact.epoch(0), half.epoch(0), strict=True):
    assert rounded["teacher/logits"].dtype == jnp.bfloat16
    for name in ("teacher/logits", "teacher/taps/dense"):
      np.testing.assert_allclose(
        rounded[name].astype(np.float32), rows[name], rtol=2**-8
      )
  rows = next(read.epoch(0))
  first = next(half.epoch(0))
  np.testing.assert_array_equal(rows["teacher/logits"], first["teacher/logits"])
  prepared = jax.jit(read.prepare)(read.resident, rows)
  assert prepared["teacher/logits"].dtype == jnp.float32


@pytest.mark.slow
def test_epochs_beyond_the_limit_are_computed(batches, tmp_path):
  method = _flow(_teacher())
  free, _ = _opened(tmp_path / "free", batches, method)
  one = 1.5 * free._cache.epoch_bytes / 2**30
  cached, said = _opened(tmp_path, batches, method, max_gib=one)
  assert "the first 1 of 2 epochs are kept" in said[0]
  before = [*free.epoch(1)]
  for rows, expected in zip(cached.epoch(1), before, strict=True):
    np.testing.assert_array_equal(rows["teacher/logits"], expected["teacher/logits"])
  assert not cached._cache.has_epoch(1)
  with pytest.raises(ValueError, match="one epoch takes .* GiB, allowed are 1e-09"):
    _opened(tmp_path / "none", batches, method, max_gib=1e-9)


@pytest.mark.slow
def test_full_disk_is_said_once_and_survived(batches, tmp_path, monkeypatch):
  def full(*args):
    raise OSError(28, "No space left on device")

  method = _flow(_teacher())
  cached, said = _opened(tmp_path, batches, method)
  monkeypatch.setattr(teacher_cache.TeacherCache, "write", full)
  assert len([*cached.epoch(0)]) == 3
  assert len(said) == 2
  assert "cannot grow ([Errno 28] No space left" in said[1]


@pytest.mark.slow
def test_teacher_of_another_framework_is_recorded_and_taught_from(batches, tmp_path):
  weights = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)

  def foreign(images):
    hidden = np.maximum(images.reshape(len(images), -1) @ weights, 0)
    return {"logits": hidden[:, :3], "taps/hidden": hidden}

  cache = teacher_cache.TeacherCache(
    tmp_path,
    key=cache_key(batches, "NumPy, two layers"),
    row_shapes={"logits": (3,), "taps/hidden": (5,)},
    num_examples=batches.num_examples,
  )
  for epoch in range(2):
    for rows in batches.epoch(epoch):
      images = jax.jit(batches.prepare)(batches.resident, rows)["image"]
      cache.write(epoch, rows["index"], foreign(np.asarray(images)))
  teacher = teacher_cache.recorded_teacher(teacher_cache.describe_cache(tmp_path))
  assert teacher.model.taps == ("hidden",)
  student = models.by_name("digits_cnn:2", num_classes=3, axis_name="batch")
  method = methods.hint(student, teacher, optax.adam(1e-2), pairs={"dense": "hidden"})
  cached, _ = _opened(tmp_path, batches, method)
  before, after = (_trained(method, cached, epochs=epochs) for epochs in (0, 2))
  assert any((a != b).any() for a, b in zip(after, before, strict=True))
  with pytest.raises(ValueError, match="lacks outputs for some examples of epoch 2"):
    _trained(method, cached, epochs=3)
  with pytest.raises(ValueError, match="a batch with the teacher's recorded outputs"):
    _trained(method, batches)
  other = dataclasses.replace(batches, seed=1)
  with pytest.raises(ValueError, match="augmentation: .0, True, 1. there, .1, True"):
    _opened(tmp_path, other, method)


@pytest.mark.slow
def test_batches_of_clients_and_methods_without_teacher_are_refused(
  method, batches, tmp_path
):
  with pytest.raises(
    ValueError, match="teacher: expected a method that reads the outputs of a froz"
  ):
    _opened(tmp_path, batches, method)
  with pytest.raises(TypeError, match="expected batches of images, got object"):
    _opened(tmp_path, object(), _flow(_teacher()))
