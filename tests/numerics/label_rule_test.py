"""Labels by one rule: missing, beyond the classes, masked, of every width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax._numerics import label_rule


def _read(labels, mask=None):
  return label_rule.read_labels(labels, 3, shape=(4,), mask=mask)


def test_read_labels_tells_missing_masked_and_impossible_labels_apart():
  labels = jnp.array([2, -100, 3, 9], jnp.int32)
  read = _read(labels, jnp.array([True, True, True, False]))
  np.testing.assert_array_equal(read.classes, [2, 0, 0, 0])
  np.testing.assert_array_equal(read.labelled, [True, False, True, False])
  np.testing.assert_array_equal(read.beyond, [False, False, True, False])
  assert read.classes.dtype == jnp.int32


def test_one_hot_is_zero_without_a_label_and_nan_beyond_the_classes():
  rows = _read(jnp.array([2, -1, 3, 0], jnp.int32)).one_hot(3)
  expected = [[0, 0, 1], [0] * 3, [np.nan] * 3, [1, 0, 0]]
  np.testing.assert_array_equal(rows, expected)


def test_invalidate_makes_the_gradient_nan_too():
  read = _read(jnp.array([0, -1, 3, 1], jnp.int32))
  gradient = jax.grad(lambda x: read.invalidate(x).sum())(jnp.ones((4, 2)))
  np.testing.assert_array_equal(gradient, [[1, 1], [1, 1], [np.nan] * 2, [1, 1]])


@pytest.mark.parametrize(
  ("labels", "expected"),
  [
    (np.array([255, 0], np.uint8), [255, 0]),
    (np.array([-128, 127], np.int8), [-1, 127]),
    (np.array([2**40, -(2**40) + 1]), [2**28, -1]),
    (np.array([2**64 - 1, 5], np.uint64), [2**28, 5]),
  ],
)
def test_widened_labels_are_clipped_before_they_are_narrowed(labels, expected):
  widened = label_rule.widened(labels)
  assert isinstance(widened, np.ndarray)
  assert widened.dtype == np.int32
  np.testing.assert_array_equal(widened, expected)


def test_labels_beyond_the_classes_are_refused_on_the_host_unless_masked():
  labels = [0, 1, 3, 2]
  with pytest.raises(ValueError, match="labels: .* from 0 to 2, .*got 3 in row 2"):
    _read(labels)
  checked = label_rule.checked_labels(
    labels, 3, shape=(4,), mask=np.array([1, 1, 0, 1])
  )
  np.testing.assert_array_equal(checked, labels)


@pytest.mark.parametrize(
  ("labels", "error", "match"),
  [
    ([[0], [1, 2], [0], [0]], ValueError, "labels: expected one integer per row"),
    (np.zeros(4), TypeError, "labels: expected integer"),
    ("0123", TypeError, "labels"),
    ([0, 1], ValueError, "labels"),
  ],
)
def test_what_is_no_label_a_row_is_refused(labels, error, match):
  with pytest.raises(error, match=match):
    _read(labels)
