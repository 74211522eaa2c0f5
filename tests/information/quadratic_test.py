"""Quadratic mutual information against its definition in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import information
from flowkd_jax import kernels

CLASSES = 3


def _batch(seed=0, rows=20, dim=6, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, CLASSES, rows)
  features = rng.standard_normal((rows, dim)) + np.eye(CLASSES, dim)[labels]
  return jnp.asarray(features, dtype), jnp.asarray(labels, jnp.int32)


def _definition(similarities, labels):
  k, y = np.asarray(similarities, np.float64), np.asarray(labels)
  share = np.bincount(y, minlength=CLASSES) / len(y)
  within = (k * (y[:, None] == y[None, :])).mean()
  everything = (share**2).sum() * k.mean()
  between = (share[y] * k.mean(1)).mean()
  return within, everything, between


@pytest.mark.slow
@pytest.mark.parametrize("name", kernels.KERNELS)
@pytest.mark.parametrize("block_size", [None, 7])
def test_information_equals_its_definition(name, block_size, x64):
  features, labels = _batch(dtype=jnp.float64)
  kernel = kernels.by_name(name)
  within, everything, between = _definition(jax.jit(kernel)(features), labels)

  @jax.jit
  def measure(features, labels):
    options = {"kernel": kernel, "block_size": block_size}
    return (
      information.information_potentials(features, labels, CLASSES, **options),
      information.quadratic_mutual_information(features, labels, CLASSES, **options),
    )

  potentials, value = measure(features, labels)
  np.testing.assert_allclose(potentials, (within, everything, between), rtol=1e-10)
  np.testing.assert_allclose(value, within + everything - 2 * between, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "student_t"])
def test_information_of_thousands_of_rows_is_safe_in_float32(name):
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 10, 3000)
  features = 5 + rng.standard_normal((3000, 64)) + 0.3 * np.eye(10, 64)[labels]

  @jax.jit
  def measure(features):
    return information.quadratic_mutual_information(
      features,
      jnp.asarray(labels, jnp.int32),
      10,
      kernel=kernels.by_name(name),
      block_size=500,
    )

  actual = measure(jnp.asarray(features, jnp.float32))
  with jax.enable_x64(True):
    expected = float(measure(jnp.asarray(features, jnp.float64)))
  assert expected < 1e-3
  np.testing.assert_allclose(actual, expected, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "student_t"])
def test_padding_changes_nothing(name):
  features, labels = _batch()
  mask = jnp.arange(26) < 20
  padded = jnp.concatenate([features, jnp.full((6, 6), 7.0)])
  padded_labels = jnp.concatenate([labels, jnp.zeros(6, jnp.int32)])

  @jax.jit
  def measures(features, labels, mask=None):
    options = {"kernel": kernels.by_name(name), "mask": mask}
    return (
      information.quadratic_mutual_information(features, labels, CLASSES, **options),
      *information.information_potentials(features, labels, CLASSES, **options),
    )

  expected = measures(features, labels)
  np.testing.assert_allclose(measures(padded, padded_labels, mask), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.eight_devices
@pytest.mark.parametrize("name", ["cosine", "student_t", "adaptive_rbf"])
def test_information_and_gradient_of_the_global_batch(name):
  features, labels = _batch(rows=32)
  mask = jnp.arange(32) < 27  # the last device holds no real row
  kernel = kernels.by_name(name)

  def measure(features, labels, mask, axis_name=None):
    return information.quadratic_mutual_information(
      features, labels, CLASSES, kernel=kernel, mask=mask, axis_name=axis_name
    )

  expected = jax.jit(jax.value_and_grad(measure))(features, labels, mask)
  split = [x.reshape(8, 4, *x.shape[1:]) for x in (features, labels, mask)]
  values, gradients = jax.pmap(
    jax.value_and_grad(lambda *batch: measure(*batch, "batch")), axis_name="batch"
  )(*split)
  np.testing.assert_allclose(values, np.full(8, expected[0]), rtol=1e-5)
  # Each device differentiates the sum of all devices' equal losses.
  np.testing.assert_allclose(
    gradients.reshape(32, -1) / 8, expected[1], rtol=1e-4, atol=1e-8
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", kernels.KERNELS)
def test_information_is_finite_at_degenerate_rows(name, degenerate_rows):
  @jax.jit
  @jax.value_and_grad
  def measure(rows):
    labels = jnp.arange(rows.shape[0]) % CLASSES
    return information.quadratic_mutual_information(
      rows, labels, CLASSES, kernel=kernels.by_name(name)
    )

  for case, rows in degenerate_rows.items():
    value, gradient = measure(rows)
    assert np.isfinite(value), case
    assert np.isfinite(gradient).all(), case


@pytest.mark.slow
def test_features_that_are_the_labels_carry_most_information():
  labels = jnp.arange(12) % CLASSES
  perfect = jax.nn.one_hot(labels, CLASSES)
  value = information.quadratic_mutual_information(perfect, labels, CLASSES)
  # p = 1/3, unit class means at distance sqrt(2/3) of the centre: 3 (1/9) (2/3) / 2.
  np.testing.assert_allclose(value, 1 / 9, rtol=1e-6)
  blind = information.quadratic_mutual_information(jnp.ones((12, 3)), labels, CLASSES)
  np.testing.assert_allclose(blind, 0, atol=1e-12)


def test_bad_input_is_refused():
  features, labels = _batch()
  measure = information.quadratic_mutual_information
  with pytest.raises(TypeError, match="labels: expected integer class labels"):
    measure(features, labels.astype(jnp.float32), CLASSES)
  with pytest.raises(ValueError, match=r"labels: expected shape \(20,\), got \(19,\)"):
    measure(features, labels[1:], CLASSES)
  with pytest.raises(ValueError, match="num_classes: expected a number above 0"):
    measure(features, labels, 0)
  with pytest.raises(ValueError, match="mask: expected shape"):
    measure(features, labels, CLASSES, mask=jnp.ones(3, bool))


@pytest.mark.slow
@pytest.mark.parametrize("name", kernels.KERNELS)
def test_rows_without_a_label_change_neither_information_nor_bandwidth(name, x64):
  features, labels = _batch(dtype=jnp.float64)
  missing = np.arange(20) % 4 == 0
  features = jnp.where(missing[:, None], 100 + features, features)

  @jax.jit
  def measure(features, labels):
    options = {"kernel": kernels.by_name(name)}
    return (
      *information.information_potentials(features, labels, CLASSES, **options),
      information.quadratic_mutual_information(features, labels, CLASSES, **options),
    )

  expected = measure(features[~missing], labels[~missing])
  found = measure(features, jnp.where(missing, -5, labels))
  np.testing.assert_allclose(found, expected, rtol=1e-9)
  assert np.isnan(measure(features, labels.at[3].set(CLASSES))).all()


@pytest.mark.slow
def test_kernel_of_ones_own_may_have_any_name():
  kernel = kernels.rbf(2.0)
  named = dataclasses.replace(kernel, name="cosine")
  measure = jax.jit(
    lambda rows, labels: [
      information.quadratic_mutual_information(rows, labels, CLASSES, kernel=each)
      for each in (kernel, named, "rbf:2")
    ]
  )
  first, *others = measure(*_batch())
  assert others == [first, first]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "student_t"])
def test_memory_and_work_do_not_grow_with_rows_times_classes(name):
  rows, classes = 1024, 2048
  measure = jax.value_and_grad(information.quadratic_mutual_information)
  shapes = (
    jax.ShapeDtypeStruct((rows, 8), jnp.float32),
    jax.ShapeDtypeStruct((rows,), jnp.int32),
  )
  compiled = (
    jax.jit(
      functools.partial(
        measure, num_classes=classes, kernel=kernels.by_name(name), block_size=128
      )
    )
    .lower(*shapes)
    .compile()
  )
  # An indicator of a row and class takes 8 MiB as a matrix.
  assert compiled.memory_analysis().temp_size_in_bytes < 4 * 2**20
  pairs = 0 if name == "cosine" else rows**2
  assert compiled.cost_analysis()["flops"] < 300 * pairs + 100 * 8 * (rows + classes)


def test_few_classes_are_summed_in_one_order():
  """Sums by segment are added in any order on a GPU."""

  def operations(classes):
    labels = jnp.zeros(128, jnp.int32)
    measure = information.quadratic_mutual_information
    traced = jax.make_jaxpr(lambda rows: measure(rows, labels, classes))
    return str(traced(jnp.ones((128, 8))))

  # The other one counts the rows of each class, which is exact in any order.
  assert operations(10).count("scatter-add") == 1
  assert operations(2000).count("scatter-add") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "student_t"])
def test_information_is_accurate_with_few_rows_of_a_class(name):
  rng = np.random.default_rng(0)
  labels = np.where(np.arange(600) % 50 == 0, -1, rng.integers(0, 400, 600))
  features = 5 + rng.standard_normal((600, 16)) + rng.standard_normal((400, 16))[labels]
  kernel = kernels.by_name(name)
  measure = jax.jit(
    lambda rows: jax.value_and_grad(information.quadratic_mutual_information)(
      rows, jnp.asarray(labels, jnp.int32), 400, kernel=kernel
    )
  )
  value, gradient = measure(jnp.asarray(features, jnp.float32))
  with jax.enable_x64(True):
    expected, expected_gradient = measure(jnp.asarray(features, jnp.float64))
  np.testing.assert_allclose(value, float(expected), rtol=1e-6)
  expected_gradient = np.asarray(expected_gradient)
  atol = 1e-5 * np.abs(expected_gradient).max()
  np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=atol)
