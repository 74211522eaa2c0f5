"""Hierarchical self-supervision: losses, controls, what is exported, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models

pytestmark = pytest.mark.optimizer
BRANCHES = ("branch_1", "branch_2")
VALID = 6


def _network(width=2, widths=None, **options):
  return models.CifarResNet(
    num_blocks=1,
    widths=widths or (width, 2 * width),
    stem_width=width,
    **{"num_classes": 3, **options},
  )


def _variables(model, seed=1):
  """Random ones, which takes less time than to compile the initialisation."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  return jax.tree.map(
    lambda v: jnp.asarray(rng.uniform(0.1, 0.5, v.shape), v.dtype), shapes
  )


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  return {
    "image": jnp.asarray(rng.standard_normal((8, 8, 8, 1)), jnp.float32),
    "label": jnp.asarray(rng.integers(0, 3, 8), jnp.int32),
    "mask": jnp.arange(8) < VALID,
  }


@pytest.fixture(scope="module")
def teacher():
  model = models.with_branches(_network(width=3), 12)
  return methods.Network(model, _variables(model))


def _first_step(method, batch, variables):
  """State before, state after and metrics of one update; no fresh weights are drawn."""
  state = jax.eval_shape(method.init, jax.random.key(0), batch["image"])
  assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(
    jnp.shape, variables["params"]
  )
  state = state.replace(
    step=jnp.zeros((), jnp.int32),
    key=jax.random.key(0),
    params=variables["params"],
    collections={"batch_stats": variables["batch_stats"]},
    opt_state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.opt_state),
  )
  after, metrics = jax.jit(method.update)(state, batch, method.constants)
  return state, after, metrics


# NumPy ----------------------------------------------------------------------


def _rotated(batch):
  """Images and joint labels, one by one."""
  images, labels = [], []
  for image, label in zip(np.asarray(batch["image"]), batch["label"], strict=True):
    for turns in range(4):
      images.append(np.rot90(image, turns))
      labels.append(4 * int(label) + turns)
  return np.stack(images), np.array(labels)


def _outputs(model, variables, batch, *, train, **options):
  """Logits and branches of the valid rotated images, with float64 digits."""
  images, _ = _rotated(batch)
  taps = getattr(model, "branches", ())
  if train:
    options |= {"train": True, "mutable": ["batch_stats"]}
    options["mask"] = np.repeat(np.asarray(batch["mask"]), 4)
  output = jax.jit(
    lambda v: capture.apply_with_taps(
      model, v, jnp.asarray(images), taps=taps, **options
    )
  )(variables)
  logits, branches = output[0] if train else output
  rows = [logits, *(branches[name] for name in taps)]
  return [np.asarray(x, np.float64)[: 4 * VALID] for x in rows]


def _log_softmax(x):
  x = x - x.max(1, keepdims=True)
  return x - np.log(np.exp(x).sum(1, keepdims=True))


def _cross_entropy(logits, labels):
  return -_log_softmax(logits)[np.arange(len(logits)), labels].mean()


def _divergence(student, teacher, temperature):
  student, teacher = (_log_softmax(x / temperature) for x in (student, teacher))
  return temperature**2 * (np.exp(teacher) * (teacher - student)).sum(1).mean()


def _label_terms(outputs, batch):
  """Cross-entropy of upright images, and of all rotations, summed over branches."""
  _, joint = _rotated(batch)
  upright = _cross_entropy(outputs[0][::4], np.asarray(batch["label"])[:VALID])
  branches = [_cross_entropy(x, joint[: 4 * VALID]) for x in outputs[1:]]
  return {"labels": upright, "joint_labels": sum(branches)}


def _divergences(student, teacher, temperature):
  first, *others = (
    _divergence(x, y, temperature) for x, y in zip(student, teacher, strict=True)
  )
  return {"logits": first, "branches": sum(others)}


def _check(metrics, expected):
  names = {name for name in metrics if name.startswith("loss/")}
  assert names == {f"loss/{name}" for name in expected}
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[f"loss/{name}"], value, rtol=2e-4)
  np.testing.assert_allclose(metrics["loss"], sum(expected.values()), rtol=2e-4)


# Teachers -------------------------------------------------------------------


@pytest.mark.slow
def test_teacher_from_scratch_is_trained_on_labels_and_joint_labels(batch):
  method = methods.hierarchical_teacher(_network(), optax.sgd(0.1), axis_name=None)
  model = models.with_branches(_network(), 12)
  variables = _variables(model)
  state, after, metrics = _first_step(method, batch, variables)
  _check(metrics, _label_terms(_outputs(model, variables, batch, train=True), batch))
  for part in ("stem", "body", "branch_1_body", "branch_2_body"):
    moved = jax.tree.map(
      lambda a, b: np.abs(np.asarray(a) - b).max(),
      state.params[part],
      after.params[part],
    )
    assert max(jax.tree.leaves(moved)) > 1e-6
  exported = method.export(after)["network"]
  assert exported.model == model
  assert set(exported.variables["params"]) == set(variables["params"])


@pytest.mark.slow
def test_joint_labels_without_a_teacher_export_the_backbone_alone(batch):
  method = methods.hierarchical_teacher(
    _network(), optax.sgd(0.1), keep_branches=False, axis_name=None
  )
  variables = _variables(models.with_branches(_network(), 12))
  state = jax.eval_shape(method.init, jax.random.key(0), batch["image"])
  state = state.replace(
    params=variables["params"], collections={"batch_stats": variables["batch_stats"]}
  )
  exported = method.export(state)["network"]
  assert exported.model == _network()
  assert set(exported.variables["params"]) == {"stem", "body"}


@pytest.mark.slow
def test_branches_on_a_frozen_backbone_leave_it_as_it_is(batch):
  backbone = _variables(_network(), seed=2)
  method = methods.hierarchical_teacher(
    _network(),
    optax.sgd(0.1, momentum=0.9),
    backbone=backbone,
    axis_name=None,
  )
  model = models.with_branches(_network(), 12, frozen_backbone=True)
  variables = _variables(model)
  for collection, tree in variables.items():
    variables[collection] = {
      k: v for k, v in tree.items() if k not in backbone["params"]
    }
  _, after, metrics = _first_step(method, batch, variables)
  joined = {c: {**tree, **variables[c]} for c, tree in backbone.items()}
  expected = _label_terms(_outputs(model, joined, batch, train=True), batch)
  _check(metrics, {"joint_labels": expected["joint_labels"]})
  exported = method.export(after)["network"]
  assert not exported.model.frozen_backbone
  # Parameters and running statistics.
  jax.tree.map(
    np.testing.assert_array_equal,
    models.backbone_variables(exported.variables),
    dict(backbone),
  )
  branch = exported.variables["params"]["branch_1_body"]["classifier"]["bias"]
  before = variables["params"]["branch_1_body"]["classifier"]["bias"]
  assert np.abs(branch - before).max() > 1e-4


def test_backbone_of_another_network_is_refused(batch):
  method = methods.hierarchical_teacher(
    _network(), optax.sgd(0.1), backbone=_variables(_network(width=3))
  )
  with pytest.raises(ValueError, match=r"backbone: expected variables .* got \(3,\)"):
    jax.eval_shape(method.init, jax.random.key(0), batch["image"])


# Students -------------------------------------------------------------------


@pytest.mark.slow
def test_student_learns_from_logits_and_branches(batch, teacher):
  method = methods.hierarchical_student(
    _network(), teacher, optax.sgd(0.1), temperature=2.0, axis_name=None
  )
  model = models.with_branches(_network(), 12)
  variables = _variables(model, seed=3)
  inside = {**variables, "params": {"student": variables["params"], "learnt": {}}}
  _, after, metrics = _first_step(method, batch, inside)
  student = _outputs(model, variables, batch, train=True)
  taught = _divergences(student, _outputs(*teacher, batch, train=False), 2.0)
  expected = {"labels": _label_terms(student, batch)["labels"], **taught}
  _check(metrics, expected)

  exported = method.export(after)["network"]
  assert exported.model == _network()
  trained = {"params": after.params["student"], **after.collections}
  np.testing.assert_allclose(
    exported.model.apply(exported.variables, batch["image"]),
    model.apply(trained, batch["image"]),
    rtol=1e-6,
  )


@pytest.mark.slow
def test_rotations_without_branches_are_the_control(batch, teacher):
  """Image-matched knowledge distillation; the teacher needs no branches either."""
  plain = methods.Network(
    _network(width=3), models.backbone_variables(teacher.variables)
  )
  method = methods.hierarchical_student(
    _network(), plain, optax.sgd(0.1), branches=False, axis_name=None
  )
  variables = _variables(_network(), seed=3)
  inside = {**variables, "params": {"student": variables["params"], "learnt": {}}}
  _, after, metrics = _first_step(method, batch, inside)
  student = _outputs(_network(), variables, batch, train=True)
  taught = _divergences(student, _outputs(*plain, batch, train=False), 3.0)
  expected = {"labels": _label_terms(student, batch)["labels"], **taught}
  del expected["branches"]
  _check(metrics, expected)
  assert method.export(after)["network"].model == _network()


@pytest.mark.slow
def test_two_networks_teach_each_other(batch):
  method = methods.hierarchical_mutual(
    (_network(), _network(width=3)), optax.sgd(0.1), axis_name=None
  )
  pair = [models.with_branches(_network(width=width), 12) for width in (2, 3)]
  both = [_variables(model, seed) for seed, model in enumerate(pair)]
  variables = {
    collection: {f"network_{i + 1}": both[i][collection] for i in range(2)}
    for collection in ("params", "batch_stats")
  }
  state, after, metrics = _first_step(method, batch, variables)
  outputs = [
    _outputs(model, v, batch, train=True) for model, v in zip(pair, both, strict=True)
  ]
  on_labels = [_label_terms(x, batch) for x in outputs]
  on_each_other = [_divergences(*outputs, 3.0), _divergences(*outputs[::-1], 3.0)]
  expected = {
    name: sum(terms[name] for terms in found)
    for found in (on_labels, on_each_other)
    for name in found[0]
  }
  _check(metrics, expected)

  # The other network is a constant: the gradient of the logits of one KL alone.
  one, other = (x[0] for x in outputs)
  softmax = lambda x: np.exp(_log_softmax(x))
  gradient = 3.0 * (softmax(one / 3) - softmax(other / 3)).mean(0)
  labels = np.eye(3)[np.asarray(batch["label"])[:VALID]]
  gradient += (softmax(one[::4]) - labels).mean(0)
  bias = [x.params["network_1"]["body"]["classifier"]["bias"] for x in (state, after)]
  np.testing.assert_allclose((bias[0] - bias[1]) / 0.1, gradient, rtol=1e-3, atol=1e-5)

  exported = method.export(after)
  assert [network.model for network in exported.values()] == [
    _network(),
    _network(width=3),
  ]
  assert list(exported) == ["network_1", "network_2"]


# Refusals -------------------------------------------------------------------


def test_teachers_that_do_not_correspond_are_refused(teacher):
  def refused(teacher, match, student=None, **options):
    with pytest.raises(ValueError, match=match):
      methods.hierarchical_student(
        student or _network(), teacher, optax.sgd(0.1), **options
      )

  plain = methods.Network(_network(), {})
  refused(plain, "teacher: expected a network with branches, got CifarResNet")
  deeper = _network(widths=(2, 4, 8))
  refused(teacher, "as many stages and branches as the student has, 3, got 2", deeper)
  refused(
    teacher, "as many classes as the student has, 5, got 3", _network(num_classes=5)
  )
  refused(teacher, "temperature: expected a number above 0", temperature=0.0)


def test_networks_that_cannot_teach_each_other_are_refused(network):
  def refused(networks, error, match):
    with pytest.raises(error, match=match):
      methods.hierarchical_mutual(networks, optax.sgd(0.1))

  refused([_network()], ValueError, "networks: expected two, got 1")
  deeper = _network(widths=(2, 4, 8))
  refused((_network(), deeper), ValueError, "networks: expected as many stages")
  refused((_network(), network()), TypeError, "expected a CifarResNet .* got CNN")
