"""The rule for labels, for every loss that reads them."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flowkd_jax import losses
from tests.losses.contract_rows import BATCH
from tests.losses.contract_rows import ROWS

LABELLED = [name for name, row in ROWS.items() if row.classes is not None]
every_labelled = pytest.mark.parametrize("name", LABELLED)
MISSING = np.array([0, 3, 4, 15])


def test_every_loss_with_labels_is_tested():
  takes_labels = {
    name.split(",")[0]
    for name in ROWS
    if "labels" in inspect.signature(getattr(losses, name.split(",")[0])).parameters
  }
  assert takes_labels == {name.split(",")[0] for name in LABELLED}


def _example(name, dtype=np.float64):
  rng = np.random.default_rng(0)
  shapes = ROWS[name].student, ROWS[name].teacher
  sides = [rng.standard_normal((BATCH, *shape)).astype(dtype) for shape in shapes]
  return sides, np.arange(BATCH, dtype=np.int32) % 3


@functools.cache
def _value_and_grad(name):
  ids = np.arange(BATCH, dtype=np.int32)

  def loss(sides, labels, mask):
    return ROWS[name].call(*sides, ids, labels=labels, mask=mask)

  return jax.jit(jax.value_and_grad(loss))


def _changed(labels, rows, value):
  labels = labels.copy()
  labels[rows] = value
  return labels


def _missing(labels, value=-1):
  return _changed(labels, MISSING, value)


def _assert_same(actual, expected):
  for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@every_labelled
@pytest.mark.parametrize("value", [-1, -100, np.iinfo(np.int32).min])
def test_rows_without_a_label_are_left_out(name, value, x64):
  sides, labels = _example(name)
  mask = np.arange(BATCH) < 14
  evaluate = _value_and_grad(name)
  left = mask & ~np.isin(np.arange(BATCH), MISSING)
  expected = evaluate(sides, labels, left)
  assert expected[0] > 0
  _assert_same(evaluate(sides, _missing(labels, value), mask), expected)


@every_labelled
def test_batch_without_a_label_is_zero(name, x64):
  sides, labels = _example(name)
  results = _value_and_grad(name)(sides, np.full_like(labels, -1), np.ones(BATCH, bool))
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(results))


@pytest.mark.slow
@every_labelled
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64", "uint32"])
def test_labels_of_every_integer_dtype_are_the_same(name, dtype, x64):
  sides, labels = _example(name)
  evaluate, mask = _value_and_grad(name), np.ones(BATCH, bool)
  expected = evaluate(sides, labels, mask)
  _assert_same(evaluate(sides, labels.astype(dtype), mask), expected)


@every_labelled
@pytest.mark.parametrize("beyond", [0, 1, 2**30])
def test_label_beyond_the_classes_gives_nan_on_the_device(name, beyond, x64):
  sides, labels = _example(name)
  evaluate, mask = _value_and_grad(name), np.arange(BATCH) < 12
  expected = evaluate(sides, labels, mask)
  # Changed copies: the CPU may still be reading what was passed.
  beyond += ROWS[name].classes
  value, gradients = evaluate(sides, _changed(labels, 5, beyond), mask)
  assert np.isnan(value)
  assert np.isnan(gradients[0]).any()
  _assert_same(evaluate(sides, _changed(labels, 13, beyond), mask), expected)


@pytest.mark.slow
@every_labelled
def test_label_beyond_the_classes_is_refused_on_the_host(name):
  sides, labels = _example(name, np.float32)
  ids = np.arange(BATCH)
  labels[5] = ROWS[name].classes
  match = f"labels: expected classes from 0 to .* got {labels[5]} in row 5"
  for unread in ({}, {"mask": np.ones(BATCH, bool)}):
    with pytest.raises(ValueError, match=match):
      ROWS[name].call(*sides, ids, labels=labels, **unread)
    with pytest.raises(ValueError, match=match):
      jax.eval_shape(
        lambda sides, more=unread: ROWS[name].call(*sides, ids, labels=labels, **more),
        sides,
      )
  with pytest.raises(ValueError, match=match):
    ROWS[name].call(*sides, ids, labels=labels.tolist())
  masked = ROWS[name].call(*sides, ids, labels=labels, mask=np.arange(BATCH) < 5)
  assert np.isfinite(masked)


@pytest.mark.slow
@every_labelled
def test_labels_that_overflow_int32_are_no_classes(name):
  sides, labels = _example(name, np.float32)
  labels = labels.astype(np.int64)
  labels[5] = 2**32  # 0 after truncation
  with pytest.raises(ValueError, match=f"got {2**32} in row 5"):
    ROWS[name].call(*sides, np.arange(BATCH), labels=labels)
  wide = np.where(np.arange(BATCH) == 5, 2**32 - 1, labels).astype(np.uint32)
  value = ROWS[name].call(*sides, np.arange(BATCH), labels=jnp.asarray(wide))
  assert np.isnan(value)  # not the missing label -1


@pytest.mark.slow
@every_labelled
def test_rows_without_a_label_are_counted_over_all_devices(name, x64):
  sides, labels = _example(name)
  labels = _missing(labels)
  labels[6:8] = -1  # all rows of a device
  expected = _value_and_grad(name)(sides, labels, np.ones(BATCH, bool))[0]
  ids = np.arange(BATCH, dtype=np.int32)

  def loss(sides, labels, ids):
    return ROWS[name].call(*sides, ids, labels=labels, axis_name="batch")

  rows = PartitionSpec("batch")
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
  sharded = jax.shard_map(loss, mesh=mesh, in_specs=rows, out_specs=PartitionSpec())
  np.testing.assert_allclose(jax.jit(sharded)(sides, labels, ids), expected, rtol=1e-9)


@pytest.mark.parametrize(
  "labels", [["a", "b"], [0, None], "01", None, np.array([0, 1], object), [0.0, 1.0]]
)
def test_labels_that_are_no_integers_are_refused(labels):
  with pytest.raises(TypeError, match="labels: expected integer class labels, got"):
    losses.cross_entropy(jnp.zeros((2, 3)), labels)


@pytest.mark.slow
def test_labels_in_a_list_of_lists_are_refused():
  with pytest.raises(ValueError, match="labels: expected one integer per row"):
    losses.cross_entropy(jnp.zeros((2, 3)), [[0], [1, 2]])
