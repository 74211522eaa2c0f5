"""Optimizers: whose parameters they see, what they are given, what is evaluated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax.methods import _optimizers
from tests.methods.contract_rows import CNN
from tests.methods.contract_rows import ROWS

pytestmark = pytest.mark.optimizer

IMAGES = jnp.zeros((2, 8, 8, 1))


@functools.cache
def _variables(model):
  shapes = jax.eval_shape(lambda: capture.init(model, jax.random.key(1), IMAGES))
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.uniform(-0.5, 1, x.shape) ** 2, x.dtype), shapes
  )


def _spy(seen, optimizer):
  def init(params):
    seen.append(params)
    return optimizer.init(params)

  return optimizer._replace(init=init)


def _own_trees(name):
  """Names at the top of each tree that the optimizers of a method are to see.

  In the order of their keys in the parameters, as the first state is made under `jit`.
  """
  backbone, cnn = ["body", "stem"], sorted(_variables(CNN)["params"])
  branches = ["branch_1_body", "branch_2_body"]
  return {
    "hint": [["dense"], cnn],
    "simkd": [None, backbone],
    "online_ensemble": [None, ["stem", "student_1", "student_2"]],
    "hierarchical_teacher": [backbone, branches],
    "hierarchical_teacher, frozen": [branches],
    "hierarchical_student": [backbone, branches],
    "hierarchical_mutual": 2 * [backbone, branches],
    "federated_averaging": [None],
  }.get(name, [cnn])


@pytest.mark.parametrize("name", ROWS)
def test_optimizers_see_the_own_tree_of_every_network(name):
  row, seen = ROWS[name], []
  variables = _variables(row.network)
  method = row.make(_spy(seen, optax.adam(1e-3)), variables)
  jax.eval_shape(method.init, jax.random.key(0), IMAGES)
  expected = _own_trees(name)
  assert len(seen) == len(expected)
  for tree, names in zip(seen, expected, strict=True):
    assert names is None or sorted(tree) == names


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["supervised", "knowledge_distillation", "information_flow", "hint"]
)
@pytest.mark.parametrize("fixed", [False, True])
def test_freezing_by_name_keeps_what_it_names(name, fixed, batches):
  variables = _variables(CNN)

  def labels(params):
    return {top: "frozen" if top == "hidden" else "trained" for top in params}

  parts = {"frozen": optax.set_to_zero(), "trained": optax.sgd(1.0)}
  own = labels(variables["params"]) if fixed and name != "hint" else labels
  method = ROWS[name].make(optax.multi_transform(parts, own), variables)
  state, _ = _updated(method, batches[0], method.init(jax.random.key(0), IMAGES))
  params = method.export(state)["network"].variables["params"]
  gaps = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), params, variables["params"])
  moved = {top: max(jax.tree.leaves(tree)) > 0 for top, tree in gaps.items()}
  assert not moved["hidden"]
  assert moved["conv_1"]


def _updated(method, batch, state):
  """One update, on one device that has the axis of the devices."""
  rows = jax.tree.map(lambda x: x[None], dict(batch))
  update = jax.pmap(
    method.update, "batch", in_axes=(None, 0, None), out_axes=None, devices=_DEVICES
  )
  return update(state, rows, method.constants)


_DEVICES = jax.local_devices()[:1]


def test_learnt_parameters_have_an_optimizer_by_option():
  seen = []
  method = methods.hint(
    CNN,
    methods.Network(CNN, _variables(CNN)),
    optax.adam(1e-3),
    pairs={"dense": "dense"},
    params_optimizer=_spy(seen, optax.sgd(0.1)),
  )
  state = jax.eval_shape(method.init, jax.random.key(0), IMAGES)
  assert list(seen[0]) == ["dense"]
  assert len(seen) == 1
  assert set(state.opt_state) == {"student", "learnt"}


@pytest.mark.slow
def test_norms_are_those_of_one_tree(batches):
  """A projection with a large gradient does not slow down the student."""
  clipped = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
  method = ROWS["hint"].make(clipped, _variables(CNN))
  state = method.init(jax.random.key(0), IMAGES)
  after, _ = _updated(method, batches[0], state)
  for part in ("student", "learnt"):
    steps = jax.tree.map(jnp.subtract, after.params[part], state.params[part])
    np.testing.assert_allclose(optax.tree.norm(steps), 1e-3, rtol=1e-3)


# Any optimizer ---------------------------------------------------------------

START = {"body": jnp.ones(3), "head": jnp.zeros(2)}
RATE = 0.05


def _quadratic(optimizer):
  """Trains two vectors towards 2; no network."""

  def loss(variables, batch, constants, *, step, key):
    gaps = jax.tree.map(lambda x: ((x - 2) ** 2).sum(), variables["params"])
    return sum(gaps.values()), ({}, {})

  return methods.gradient_method(
    init_variables=lambda *_: {"params": START},
    loss=loss,
    optimizer=optimizer,
    export=lambda v: {"network": methods.Network(CNN, v)},
    axis_name=None,
  )


def _trained(optimizer, steps=6):
  method = _quadratic(optimizer)
  state = method.init(jax.random.key(0), IMAGES)
  update, losses = jax.jit(method.update), []
  for _ in range(steps):
    state, metrics = update(state, {}, ())
    losses.append(float(metrics["loss"]))
  return method, state, losses


def _adversarial():
  return optax.chain(contrib.normalize(), optax.sgd(RATE))


def _frozen_body(optimizer):
  labels = {"body": "frozen", "head": "trained"}
  parts = {"frozen": optax.set_to_zero(), "trained": optimizer}
  return optax.partition(parts, labels, mask_compatible_extra_args=True)


OPTIMIZERS = {
  "adam": optax.adam(RATE),
  "sgd": optax.sgd(RATE),
  "lion": optax.lion(RATE),
  "radam": optax.radam(RATE),
  "noisy_sgd": optax.noisy_sgd(RATE, key=0),
  "polyak_sgd": optax.polyak_sgd(),
  "lbfgs": optax.lbfgs(),
  "lbfgs, masked": _frozen_body(optax.lbfgs()),
  "zoom": optax.chain(
    optax.sgd(1.0), optax.scale_by_zoom_linesearch(max_linesearch_steps=3)
  ),
  "backtracking": optax.chain(
    optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=3)
  ),
  "multi steps": optax.MultiSteps(optax.sgd(RATE), 2),
  "multi steps, value": optax.MultiSteps(optax.polyak_sgd(), 2),
  "inject_hyperparams": optax.inject_hyperparams(optax.sgd)(
    learning_rate=optax.constant_schedule(RATE)
  ),
  "apply_if_finite": optax.apply_if_finite(optax.sgd(RATE), 2),
  "reduce_on_plateau": optax.chain(optax.sgd(RATE), contrib.reduce_on_plateau()),
  "prodigy": contrib.prodigy(),
  "sam": contrib.sam(optax.sgd(RATE), _adversarial()),
  "sam, opaque": contrib.sam(optax.sgd(RATE), _adversarial(), opaque_mode=True),
  "sam in a chain": optax.chain(
    optax.clip(9.0), contrib.sam(optax.sgd(RATE), _adversarial())
  ),
  "cocob": contrib.cocob(),
  "dog": contrib.dog(1.0),
  "dowg": contrib.dowg(1.0),
  "mechanize": contrib.mechanize(optax.sgd(RATE)),
  "momo": contrib.momo(RATE),
  "momo_adam": contrib.momo_adam(RATE),
  "sophia": contrib.sophia(RATE),
  "schedule_free": contrib.schedule_free_sgd(RATE),
  "schedule_free, masked": _frozen_body(contrib.schedule_free_sgd(RATE)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_trains(name):
  method, state, losses = _trained(OPTIMIZERS[name])
  assert losses[-1] < losses[0]
  params = method.export(state)["network"].variables["params"]
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, START)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(params))
  if "masked" in name:
    np.testing.assert_array_equal(params["body"], START["body"])


def test_lookahead_is_refused_by_name():
  with pytest.raises(ValueError, match="optimizer: optax.lookahead trains a pair of"):
    _trained(optax.lookahead(optax.sgd(RATE), 2, 0.5))


def test_optimizer_that_needs_another_argument_is_refused_by_name():
  def update(updates, state, params=None, *, curvature):
    return updates, state

  needy = optax.GradientTransformationExtraArgs(lambda params: (), update)
  message = "optimizer: its update needs 'curvature', .* passes value, grad, value_fn"
  for optimizer in (needy, optax.chain(optax.clip(1.0), needy)):
    with pytest.raises(ValueError, match=message):
      _trained(optimizer)


def test_masked_line_search_is_told_what_it_needs():
  parts = {"frozen": optax.set_to_zero(), "trained": optax.lbfgs()}
  masked = optax.multi_transform(parts, {"body": "frozen", "head": "trained"})
  with pytest.raises(ValueError, match="optimizer: .*mask_compatible_extra_args=True"):
    _trained(masked)


def test_what_is_no_optimizer_is_refused():
  with pytest.raises(TypeError, match="optimizer: expected an optax.*, got a float"):
    _trained(0.1)


def test_plateau_is_told_the_loss():
  plateau = contrib.reduce_on_plateau(patience=1, factor=0.5, rtol=0.9, cooldown=0)
  _, state, losses = _trained(optax.chain(optax.sgd(1e-4), plateau))
  assert float(state.opt_state[1].scale) < 1
  assert float(state.opt_state[1].best_value) == losses[0]


def test_schedule_free_exports_the_averages():
  method, state, _ = _trained(contrib.schedule_free_sgd(RATE))
  expected = contrib.schedule_free_eval_params(state.opt_state, state.params)
  exported = method.export(state)["network"].variables["params"]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), exported, expected
  )
  assert (exported["body"] != state.params["body"]).any()


@pytest.mark.parametrize("steps", [3, 4])
def test_sam_exports_the_point_that_it_goes_back_to(steps):
  optimizer = contrib.sam(optax.sgd(RATE), _adversarial())
  method, state, _ = _trained(optimizer, steps)
  exported = method.export(state)["network"].variables["params"]
  expected = state.opt_state.cache if steps == 3 else state.params
  jax.tree.map(np.testing.assert_array_equal, exported, expected)
  assert (state.opt_state.cache["body"] != state.params["body"]).any()


@pytest.mark.parametrize(
  ("optimizer", "match"),
  [
    (contrib.schedule_free_sgd(RATE), "averaged: optax.contrib.schedule_free averages"),
    (contrib.sam(optax.sgd(RATE), _adversarial()), "averaged: optax.contrib.sam moves"),
  ],
)
def test_averaging_refuses_optimizers_that_train_other_parameters(optimizer, match):
  method = methods.averaged(_quadratic(optimizer))
  with pytest.raises(ValueError, match=match):
    method.init(jax.random.key(0), IMAGES)


@pytest.mark.eight_devices
@pytest.mark.slow
def test_gradient_of_the_loss_on_several_devices_is_the_global_one():
  """Function that line searches differentiate."""
  rows = jnp.arange(4.0).reshape(4, 1)

  def slope(x, row):
    def loss(x):
      return jax.lax.pmean((x * row).sum() ** 2, "batch")

    return jax.grad(_optimizers.globally(loss, "batch"))(x)

  slopes = jax.pmap(slope, "batch", in_axes=(None, 0), devices=jax.local_devices()[:4])
  expected = jax.grad(lambda x: ((x * rows[:, 0]) ** 2).mean())(1.5)
  np.testing.assert_allclose(slopes(1.5, rows), np.full(4, expected), rtol=1e-6)
