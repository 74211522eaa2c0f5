"""Calls of losses, and the states that they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax.methods import _loss_calls

pytestmark = pytest.mark.optimizer
OPTIONS = {"mask": None, "axis_name": None}


def _call(pairs, student, teacher, params=(), state=(), **options):
  logits = jnp.zeros((4, 3))
  return _loss_calls.Call(
    methods.Outputs(logits, student),
    methods.Outputs(logits, teacher),
    pairs,
    {"label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)},
    params,
    state,
    OPTIONS | options,
    jax.random.key(0),
  )


def _rows(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.slow
@pytest.mark.eight_devices
def test_states_are_those_of_one_device_on_many(network, teacher, batches):
  """The queue, the bank, and the keys that draw masks and negatives."""
  terms = [
    methods.LossTerm("rrd", options={"size": 32, "width": 8}),
    methods.LossTerm("crd_bank", options={"number": 6, "width": 8}),
    methods.LossTerm("mgd", 1e-3),
  ]
  found = []
  for axis in (None, "batch"):
    method = methods.combined_losses(
      network(axis),
      teacher,
      optax.sgd(1e-3),
      losses=terms,
      image_shape=(8, 8, 1),
      num_examples=20,
      axis_name=axis,
    )
    update = method.update
    state = jax.jit(method.init)(jax.random.key(0), batches[2]["image"])
    if axis is not None:
      update = jax.pmap(update, axis, in_axes=(None, 0, None), out_axes=(None, None))
    update = jax.jit(update) if axis is None else update
    for batch in batches[1:]:
      rows = batch | {"index": jnp.arange(3, 19)}
      if axis is not None:
        rows = {k: v.reshape(8, -1, *v.shape[1:]) for k, v in rows.items()}
      state, metrics = update(state, rows, method.constants)
    found.append((state.collections["loss_state"], metrics))
  (one, metrics), (many, others) = found
  assert one["rrd"][0]["position"] == 27
  assert many["rrd"][0]["position"].dtype == jnp.int32
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, many)
  for name in ("rrd", "crd_bank", "mgd"):
    key = f"loss/{name}"
    np.testing.assert_allclose(others[key], metrics[key], rtol=1e-4, err_msg=key)
  bank = one["crd_bank"][0]["student"]
  assert bank.shape == (20, 8)
  norms = np.linalg.norm(bank, axis=1)
  np.testing.assert_allclose(norms[3:19], 1, rtol=1e-5)
  assert not np.allclose(norms[:3], 1), "rows that were not seen are as they began"


def test_batches_without_positions_and_unknown_sizes_are_refused():
  with pytest.raises(ValueError, match="expected num_examples, the number of rows"):
    _loss_calls.bank_init(jax.random.key(0), None)
  call = _call((("a", "a"),), {"a": _rows(0, 4, 2)}, {"a": _rows(1, 4, 2)})
  del call.batch["index"]
  with pytest.raises(ValueError, match="expected a batch with the array"):
    _loss_calls.banked(_loss_calls.crd_bank, call)


def test_distances_and_angles_have_the_weights_of_the_paper():
  student, teacher = _rows(0, 4, 3), _rows(1, 4, 5)
  expected = 25 * losses.rkd_distance(student, teacher) + 50 * losses.rkd_angle(
    student, teacher
  )
  np.testing.assert_allclose(_loss_calls.rkd(student, teacher), expected, rtol=1e-6)


def test_features_are_embedded_only_if_a_width_is_given():
  student, teacher = _rows(0, 4, 3), _rows(1, 4, 5)
  key = jax.random.key(0)
  assert _loss_calls.embedding_init(key, (4, 3), (4, 5)) == {}
  params = _loss_calls.embedding_init(key, (4, 3), (4, 5), width=6)
  taps = ("a", "b"), {"a": student}, {"b": teacher}
  loss = losses.correlation_congruence
  plain = _loss_calls.each_pair_embedded(loss, _call((taps[0],), *taps[1:], ({},)))
  np.testing.assert_allclose(plain, loss(student, teacher), rtol=1e-6)
  call = _call((taps[0],), *taps[1:], (params,), authors=True)
  rows = [
    rows @ params[side]["kernel"]
    for side, rows in (("student", student), ("teacher", teacher))
  ]
  embedded = _loss_calls.each_pair_embedded(loss, call)
  np.testing.assert_allclose(embedded, loss(*rows, authors=True), rtol=1e-5)


def test_successive_layers_are_compared_two_by_two():
  taps = {name: _rows(n, 4, 2, 2, 3) for n, name in enumerate("abc")}
  others = {name: _rows(n + 3, 4, 2, 2, 3) for n, name in enumerate("abc")}
  pairs = tuple((name, name) for name in "abc")
  found = _loss_calls.neighbouring_maps(losses.fsp, _call(pairs, taps, others))
  expected = sum(
    losses.fsp((taps[a], taps[b]), (others[a], others[b])) for a, b in ("ab", "bc")
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  with pytest.raises(ValueError, match="expected two pairs of taps or more"):
    _loss_calls.neighbouring_maps(losses.fsp, _call(pairs[:1], taps, others))
