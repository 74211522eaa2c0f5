import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from flowkd_jax.models import BatchNorm

DEVICES = 8
ROWS = DEVICES * 3
# Uneven on purpose: one device without any valid row, one with a single one.
MASK = np.ones((DEVICES, 3), bool)
MASK[2] = False
MASK[5, 1:] = False
MASK[7, 2] = False


def activations(shape=(ROWS, 4, 5, 6), offset=0.0):
  values = np.random.default_rng(0).normal(offset, 2, shape)
  return values.astype(np.float32)


def variables_of(layer, x, seed=1):
  rng = np.random.default_rng(seed)
  variables = layer.init(jax.random.key(0), x, train=True)
  return jax.tree.map(
    lambda v: jnp.asarray(rng.uniform(0.5, 1.5, v.shape), v.dtype), variables
  )


def reference(x, mask, variables, epsilon=1e-5):
  """Float64 NumPy transcription: output, running mean, running variance."""
  x = x.astype(np.float64)
  flat = x[mask].reshape(-1, x.shape[-1])
  mean, var = flat.mean(0), flat.var(0)
  params, stats = variables["params"], variables["batch_stats"]
  output = (x - mean) / np.sqrt(var + epsilon) * np.asarray(
    params["scale"]
  ) + np.asarray(params["bias"])
  running_mean = 0.9 * np.asarray(stats["mean"]) + 0.1 * mean
  running_var = 0.9 * np.asarray(stats["var"]) + 0.1 * flat.var(0, ddof=1)
  return output, running_mean, running_var


@pytest.mark.parametrize("shape", [(ROWS, 4, 5, 6), (ROWS, 6)])
@pytest.mark.parametrize("masked", [False, True])
def test_batch_norm_equals_the_equations(shape, masked):
  layer, x = BatchNorm(), activations(shape)
  mask = MASK.ravel() if masked else np.ones(ROWS, bool)
  variables = variables_of(layer, x)
  output, updated = layer.apply(
    variables,
    x,
    train=True,
    mask=jnp.asarray(mask) if masked else None,
    mutable=["batch_stats"],
  )
  expected, mean, var = reference(x, mask, variables)
  np.testing.assert_allclose(output[mask], expected[mask], atol=2e-5)
  np.testing.assert_allclose(updated["batch_stats"]["mean"], mean, rtol=1e-5)
  np.testing.assert_allclose(updated["batch_stats"]["var"], var, rtol=1e-5)
  assert np.isfinite(output).all()


def test_batch_norm_takes_masks_of_positions():
  layer, x = BatchNorm(), activations((ROWS, 5, 6))
  mask = np.random.default_rng(3).random((ROWS, 5)) < 0.5
  variables = variables_of(layer, x)
  output, updated = layer.apply(
    variables, x, train=True, mask=jnp.asarray(mask), mutable=["batch_stats"]
  )
  expected, mean, var = reference(x, mask, variables)
  np.testing.assert_allclose(output[mask], expected[mask], atol=2e-5)
  np.testing.assert_allclose(updated["batch_stats"]["mean"], mean, rtol=1e-5)
  np.testing.assert_allclose(updated["batch_stats"]["var"], var, rtol=1e-5)


def test_batch_norm_equals_flax_without_mask_in_output_and_names():
  x = activations()
  ours, theirs = BatchNorm(), nn.BatchNorm(use_running_average=False)
  variables = variables_of(ours, x)
  assert jax.tree.structure(variables) == jax.tree.structure(
    theirs.init(jax.random.key(0), x)
  )
  output, _ = ours.apply(variables, x, train=True, mutable=["batch_stats"])
  expected, _ = theirs.apply(variables, x, mutable=["batch_stats"])
  np.testing.assert_allclose(output, expected, atol=1e-5)
  np.testing.assert_allclose(
    ours.apply(variables, x, train=False),
    nn.BatchNorm(use_running_average=True).apply(variables, x),
    atol=1e-5,
  )


def test_batch_norm_variance_survives_a_large_mean():
  layer, x = BatchNorm(), activations(offset=3000.0)
  variables = layer.init(jax.random.key(0), x, train=True)
  output, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
  expected, _, _ = reference(x, np.ones(ROWS, bool), variables)
  np.testing.assert_allclose(output, expected, atol=1e-3)


def objective(layer, variables, x, mask, axis_name):
  """A nonlinear scalar of the valid rows, global over `axis_name`."""
  output, updated = layer.apply(
    variables, x, train=True, mask=mask, mutable=["batch_stats"]
  )
  weights = jnp.linspace(-1, 1, x[0].size).reshape(x[0].shape)
  rows = jnp.square(jnp.sin(output) + weights[None]).sum((1, 2, 3))
  total = jnp.where(mask, rows, 0).sum()
  if axis_name is not None:
    total = jax.lax.psum(total, axis_name)
  return total / int(MASK.sum()), updated


def single_device(x, variables):
  def loss(params, x):
    full = {**variables, "params": params}
    return objective(BatchNorm(), full, x, jnp.asarray(MASK.ravel()), None)

  return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
    variables["params"], jnp.asarray(x)
  )


def assert_trees_close(actual, expected, atol=1e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4),
    actual,
    expected,
  )


@pytest.mark.slow
@pytest.mark.eight_devices
def test_batch_norm_is_exact_over_uneven_shards():
  x = activations()
  layer = BatchNorm(axis_name="batch")
  variables = variables_of(layer, x)
  (expected, expected_stats), (expected_params, expected_x) = single_device(
    x, variables
  )

  def step(params, x, mask):
    def loss(params, x):
      value, updated = objective(
        layer, {**variables, "params": params}, x, mask, "batch"
      )
      return jax.lax.pmean(value, "batch"), updated

    (value, updated), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
    return value, updated, jax.lax.pmean(grads[0], "batch"), grads[1]

  value, updated, params, grads_x = jax.jit(
    jax.vmap(step, (None, 0, 0), (None, None, None, 0), axis_name="batch")
  )(variables["params"], x.reshape(DEVICES, 3, 4, 5, 6), jnp.asarray(MASK))
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert_trees_close(updated, expected_stats)
  assert_trees_close(params, expected_params)
  # Each shard differentiates the sum of the shards' equal losses.
  assert_trees_close(grads_x.reshape(x.shape) / DEVICES, expected_x)


@pytest.mark.eight_devices
def test_batch_norm_is_exact_under_checked_shard_map():
  x = activations()
  layer = BatchNorm(axis_name="batch")
  variables = variables_of(layer, x)
  (expected, expected_stats), (expected_params, _) = single_device(x, variables)

  def step(params, x, mask):
    def loss(params):
      value, updated = objective(
        layer, {**variables, "params": params}, x, mask, "batch"
      )
      return jax.lax.pmean(value, "batch"), updated

    (value, updated), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return value, updated, grads

  mesh = Mesh(np.array(jax.devices()), ("batch",))
  value, updated, params = jax.jit(
    jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(P(), P("batch"), P("batch")),
      out_specs=P(),
    )
  )(variables["params"], x, MASK.ravel())
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert_trees_close(updated, expected_stats)
  assert_trees_close(params, expected_params)


@pytest.mark.slow
def test_batch_norm_without_valid_rows_is_finite_and_keeps_averages():
  layer, x = BatchNorm(), activations()
  variables = variables_of(layer, x)
  nothing = jnp.zeros(ROWS, bool)

  def total(x):
    output, updated = layer.apply(
      variables, x, train=True, mask=nothing, mutable=["batch_stats"]
    )
    return output.sum(), (output, updated)

  grads, (output, updated) = jax.grad(total, has_aux=True)(jnp.asarray(x))
  assert np.isfinite(output).all()
  assert np.isfinite(grads).all()
  assert_trees_close(updated["batch_stats"], variables["batch_stats"], atol=0)


def test_batch_norm_ignores_what_masked_rows_hold():
  layer, x = BatchNorm(), activations()
  variables, mask = variables_of(layer, x), jnp.asarray(MASK.ravel())
  spoilt = np.where(MASK.ravel()[:, None, None, None], x, np.nan)

  def gradient(x):
    def loss(params):
      full = {**variables, "params": params}
      return objective(BatchNorm(), full, x, mask, None)[0]

    return jax.jit(jax.grad(loss))(variables["params"])

  assert_trees_close(gradient(spoilt.astype(np.float32)), gradient(x), atol=0)


def test_batch_norm_keeps_statistics_in_float32():
  layer = BatchNorm(dtype=jnp.bfloat16)
  x = jnp.asarray(activations(offset=20.0), jnp.bfloat16)
  variables = layer.init(jax.random.key(0), x, train=True)
  output, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
  assert output.dtype == jnp.bfloat16
  dtypes = {leaf.dtype for leaf in jax.tree.leaves((variables, updated))}
  assert dtypes == {jnp.dtype("float32")}
  # 0.1 * 20: bfloat16 sums of 480 values would be off in the second digit.
  expected = 0.1 * np.asarray(x, np.float64).mean((0, 1, 2))
  np.testing.assert_allclose(updated["batch_stats"]["mean"], expected, rtol=1e-5)


def test_batch_norm_initialises_where_no_axis_is_bound():
  layer = BatchNorm(axis_name="batch")
  variables = layer.init(jax.random.key(0), activations(), train=True)
  np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
  np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)
