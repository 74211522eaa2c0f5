"""Contrastive distillation against a bank of embeddings, as the authors do it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses

SIZE, NUMBER = 40, 6


def _features(rows=6, seed=0):
  rng = np.random.default_rng(seed)
  make = lambda width: jnp.asarray(rng.standard_normal((rows, width)), jnp.float32)
  return make(5), make(7)


def _heads(student, teacher):
  return losses.crd_init(jax.random.key(1), student.shape, teacher.shape, width=4)


def _bank_options(student, teacher, rows, size=SIZE):
  indices = jnp.arange(rows, dtype=jnp.int32) * 2
  return {
    "params": _heads(student, teacher),
    "bank": losses.crd_bank_init(jax.random.key(2), size, width=4),
    "indices": indices,
    "negatives": losses.crd_negatives(jax.random.key(3), indices, size, number=NUMBER),
  }


def _crd_bank(student, teacher):
  options = _bank_options(student, teacher, student.shape[0])
  return losses.crd_bank(student, teacher, **options)


def _embed(features, head):
  rows = np.asarray(features, np.float64) @ np.asarray(head["kernel"], np.float64)
  rows += np.asarray(head["bias"], np.float64)
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _authors_step(student, teacher, options, normalizers=None):
  """The authors' loss, Z and new bank, in float64."""
  bank = {k: np.asarray(x, np.float64) for k, x in options["bank"].items()}
  drawn = np.concatenate([options["indices"][:, None], options["negatives"]], axis=1)
  sides = {
    "student": _embed(student, options["params"]["student"]),
    "teacher": _embed(teacher, options["params"]["teacher"]),
  }
  total, found, new = 0.0, [], {}
  for position, (side, other) in enumerate(
    (("student", "teacher"), ("teacher", "student"))
  ):
    out = np.exp(np.einsum("bd,bnd->bn", sides[side], bank[other][drawn]) / 0.07)
    z = out.mean() * SIZE if normalizers is None else normalizers[position]
    found.append(z)
    p, noise = out / z, NUMBER / SIZE
    log_positive = np.log(p[:, 0] / (p[:, 0] + noise + 1e-7))
    log_negative = np.log(noise / (p[:, 1:] + noise + 1e-7))
    total -= (log_positive.sum() + log_negative.sum()) / len(p)
    moved = 0.5 * bank[side][options["indices"]] + 0.5 * sides[side]
    new[side] = bank[side].copy()
    new[side][options["indices"]] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
  return total, found, new


@pytest.mark.slow
@pytest.mark.parametrize("number", [NUMBER, 50])
def test_crd_bank_is_the_authors_computation(number, monkeypatch):
  monkeypatch.setattr(f"{__name__}.NUMBER", number)  # 6: by row; 50: all rows at once
  student, teacher = _features()
  options = _bank_options(student, teacher, 6)
  expected, normalizers, bank = _authors_step(student, teacher, options)
  authors = jax.jit(functools.partial(losses.crd_bank, authors=True))
  np.testing.assert_allclose(authors(student, teacher, **options), expected, rtol=1e-5)
  value = jax.jit(losses.crd_bank)(student, teacher, **options)
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  update = jax.jit(losses.crd_bank_update)
  updated = update(student, teacher, **options)
  np.testing.assert_allclose(updated["log_normalizers"], np.log(normalizers), rtol=1e-5)
  for side, rows in bank.items():
    np.testing.assert_allclose(updated[side], rows, atol=1e-6)
  # The second batch keeps the Z of the first.
  student, teacher = _features(seed=1)
  options["bank"] = updated
  expected, _, _ = _authors_step(student, teacher, options, normalizers)
  np.testing.assert_allclose(authors(student, teacher, **options), expected, rtol=1e-5)
  again = update(student, teacher, **options)
  assert (again["log_normalizers"] == updated["log_normalizers"]).all()


@pytest.mark.slow
@pytest.mark.eight_devices
def test_crd_bank_update_of_eight_devices_skips_padding():
  student, teacher = _features(16)
  mask = jnp.arange(16) < 13
  options = _bank_options(student, teacher, 16)
  constants = {name: options.pop(name) for name in ("params", "bank")}
  expected = jax.jit(losses.crd_bank_update)(
    student, teacher, **options, **constants, mask=mask
  )
  batch = (student, teacher, mask, options["indices"], options["negatives"])
  split = [x.reshape(8, 2, *x.shape[1:]) for x in batch]

  def update(student, teacher, mask, indices, negatives):
    return losses.crd_bank_update(
      student,
      teacher,
      indices=indices,
      negatives=negatives,
      mask=mask,
      axis_name="batch",
      **constants,
    )

  actual = jax.pmap(update, axis_name="batch")(*split)
  for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    np.testing.assert_allclose(one, np.stack([other] * 8), rtol=1e-5, atol=1e-6)
  for side in ("student", "teacher"):
    padded = options["indices"][13:]
    assert (expected[side][padded] == constants["bank"][side][padded]).all()


@pytest.mark.slow
def test_a_batch_of_padding_leaves_the_bank_alone():
  student, teacher = _features()
  options = _bank_options(student, teacher, 6)
  update = jax.jit(losses.crd_bank_update)
  updated = update(student, teacher, **options, mask=jnp.zeros(6, bool))
  for one, other in zip(*map(jax.tree.leaves, (updated, options["bank"])), strict=True):
    assert (one == other).all()


@pytest.mark.slow
@pytest.mark.eight_devices
def test_negatives_are_other_rows_whatever_the_devices():
  indices = jnp.arange(16, dtype=jnp.int32)
  draw = lambda indices, axis_name=None: losses.crd_negatives(
    jax.random.key(0), indices, 16, number=200, axis_name=axis_name
  )
  negatives = draw(indices)
  assert negatives.shape == (16, 200)
  for index in range(16):
    assert set(np.asarray(negatives[index])) == set(range(16)) - {index}
  split = jax.pmap(lambda x: draw(x, "batch"), axis_name="batch")(indices.reshape(8, 2))
  assert (split.reshape(16, 200) == negatives).all()


@pytest.mark.slow
def test_crd_bank_is_invariant_to_permutation_of_rows_and_negatives():
  student, teacher = _features()
  options = _bank_options(student, teacher, 6)
  loss = jax.jit(losses.crd_bank)
  expected = loss(student, teacher, **options)
  options["negatives"] = options["negatives"][::-1, ::-1]
  options["indices"] = options["indices"][::-1]
  np.testing.assert_allclose(
    loss(student[::-1], teacher[::-1], **options), expected, rtol=1e-5
  )


@pytest.mark.slow
def test_crd_bank_does_not_depend_on_the_batch_size():
  student, teacher = _features()
  options = _bank_options(student, teacher, 6)
  loss = jax.jit(losses.crd_bank)
  expected = loss(student, teacher, **options)
  for name in ("indices", "negatives"):
    options[name] = jnp.concatenate([options[name], options[name]])
  twice = [jnp.concatenate([side, side]) for side in (student, teacher)]
  np.testing.assert_allclose(loss(*twice, **options), expected, rtol=1e-5)


@pytest.mark.slow
def test_crd_bank_differentiates_in_its_temperature():
  student, teacher = _features()
  options = _bank_options(student, teacher, student.shape[0])
  options["bank"]["log_normalizers"] = jnp.full(2, 4.0)

  def loss(temperature):
    return losses.crd_bank(student, teacher, temperature=temperature, **options)

  value, slope = jax.jit(jax.value_and_grad(loss))(0.5)
  low, high = (jax.jit(loss)(0.5 + step) for step in (-1e-2, 1e-2))
  np.testing.assert_allclose(
    value, losses.crd_bank(student, teacher, temperature=0.5, **options), rtol=1e-5
  )
  np.testing.assert_allclose(slope, (high - low) / 2e-2, rtol=1e-2)


@pytest.mark.slow
def test_gradient_steps_reduce_the_loss():
  student, teacher = _features()
  step = jax.jit(jax.value_and_grad(_crd_bank))
  first, _ = step(student, teacher)
  for _ in range(30):
    student -= 0.3 * step(student, teacher)[1]
  assert step(student, teacher)[0] < 0.9 * first


@pytest.mark.slow
def test_bad_input_is_refused():
  student, teacher = _features()
  options = _bank_options(student, teacher, 6)
  bank = losses.crd_bank_init(jax.random.key(0), 40, width=3)
  with pytest.raises(ValueError, match=r"bank, student: expected shape \(40, 4\)"):
    losses.crd_bank(student, teacher, **options | {"bank": bank})
  indices = options["indices"][1:]
  with pytest.raises(ValueError, match=r"indices: expected shape \(6,\), got \(5,\)"):
    losses.crd_bank(student, teacher, **options | {"indices": indices})
  with pytest.raises(TypeError, match="indices: expected integer"):
    losses.crd_negatives(jax.random.key(0), jnp.ones(3), 9)
  with pytest.raises(ValueError, match="number: expected a number above 0, got 0"):
    losses.crd_negatives(jax.random.key(0), jnp.arange(3), 9, number=0)
