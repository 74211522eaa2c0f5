"""Relations between tokens: golden values, masks, heads."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from flowkd_jax.losses import _token_relations

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "minilm_1.npz"


@pytest.mark.parametrize("reduction", ["tokens", "rows"])
def test_token_relations_have_the_golden_values(reduction, x64):
  golden = np.load(GOLDEN)
  heads = int(golden["relation_heads"])

  @jax.jit
  @jax.value_and_grad
  def loss(student, teacher):
    return losses.token_relations(
      student,
      teacher,
      relation_heads=heads,
      mask=golden["mask"],
      reduction=reduction,
    )

  suffix = {"tokens": "", "rows": "_example_mean"}[reduction]
  for part in "qkv":
    value, gradient = loss(golden[f"student_{part}"], golden[f"teacher_{part}"])
    expected = golden[f"value_{part}{part}{suffix}"]
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    if reduction == "tokens":
      np.testing.assert_allclose(gradient, golden[f"grad_student_{part}"], atol=1e-12)


def _tokens(batch=3, number=5, widths=(4, 6), seed=0):
  rng = np.random.default_rng(seed)
  make = lambda width: rng.standard_normal((batch, number, width)).astype(np.float32)
  return [make(width) for width in widths]


@pytest.mark.slow
def test_masked_tokens_are_neither_read_nor_counted():
  student, teacher = _tokens()
  counts = np.array([5, 0, 3])
  token_mask = np.arange(5) < counts[:, None]
  for side in (student, teacher):
    side[~token_mask] = np.nan
  for reduction, weights in (("tokens", (5, 3)), ("rows", (1, 1))):
    function = jax.value_and_grad(
      lambda s, r=reduction: losses.token_relations(
        s, teacher, relation_heads=2, mask=token_mask, reduction=r
      )
    )
    value, gradient = jax.jit(function)(student)
    parts = [
      losses.token_relations(
        student[i : i + 1, :n], teacher[i : i + 1, :n], relation_heads=2
      )
      for i, n in ((0, 5), (2, 3))
    ]
    np.testing.assert_allclose(value, np.average(parts, weights=weights), rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert not gradient[~token_mask].any()


@pytest.mark.slow
def test_examples_without_a_real_token_give_zero_and_real_nan_gives_nan():
  student, teacher = _tokens()
  none = np.zeros((3, 5), bool)
  function = jax.jit(
    jax.value_and_grad(lambda s, m: losses.token_relations(s, teacher, mask=m))
  )
  value, gradient = function(student, none)
  assert value == 0
  assert not gradient.any()
  student[1, 2, 3] = np.nan
  mask = none.copy()
  mask[1, 2] = True
  assert np.isnan(function(student, mask)[0])
  mask[1, 2], mask[0, 1] = False, True
  assert function(student, mask)[0] == 0  # a token alone is like itself only


@pytest.mark.slow
def test_huge_tokens_have_finite_values_and_gradients():
  student, teacher = _tokens()
  for scale in (1e15, 1e30, 3e37):
    value, gradient = jax.value_and_grad(losses.token_relations)(
      np.float32(scale) * student, np.float32(scale) * teacher
    )
    assert np.isfinite(value)
    assert value > 0
    assert np.isfinite(gradient).all()


def test_tokens_that_do_not_fit_are_refused():
  student, teacher = map(jnp.asarray, _tokens())
  with pytest.raises(
    ValueError, match="same number of tokens .* student has 5 and .* 4"
  ):
    losses.token_relations(student, teacher[:, :4])
  with pytest.raises(ValueError, match="relation_heads: .* width of the student.* 3"):
    losses.token_relations(student, teacher, relation_heads=3)
  with pytest.raises(ValueError, match="mask: expected shape"):
    losses.token_relations(student, teacher, mask=jnp.ones((3, 4)))
  with pytest.raises(ValueError, match=r"student: expected .*\[batch, tokens, dim\]"):
    losses.token_relations(student[0], teacher[0])
  with pytest.raises(ValueError, match="reduction: expected one of"):
    losses.token_relations(student, teacher, reduction="mean")
  tokens = _token_relations.masked_tokens(student, teacher, jnp.arange(3) < 2)
  assert tokens.rows.tolist() == [True, True, False]
