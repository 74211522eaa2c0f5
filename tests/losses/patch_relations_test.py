"""Relations within an image: each relation by its loss, masks, maps and tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from flowkd_jax.losses import _patch_relations


def _features(*shapes, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.slow
def test_gram_is_the_mean_squared_difference_of_cosines():
  sides = _features((2, 4, 3), (2, 4, 5))
  sides[0][1, 2] = 0
  cosines = []
  for tokens in sides:
    norms = np.linalg.norm(tokens, axis=2, keepdims=True)
    units = tokens / np.where(norms == 0, 1, norms)
    cosines.append(units @ units.swapaxes(1, 2))
  same = np.eye(4, dtype=bool)[None]
  for relation, change in (("gram", lambda x: x), ("gram_positive", np.abs)):
    chosen = [(c + change(c)) / 2 for c in cosines]
    terms = np.where(same, 0, (chosen[0] - chosen[1]) ** 2)
    value = losses.patch_relations(*sides, relation=relation)
    np.testing.assert_allclose(value, terms.mean(), rtol=1e-5)


MEASURES = {
  "pkt": losses.pkt,
  "debiased_linear_cka": functools.partial(losses.linear_cka, debiased=True),
  "information_flow": lambda s, t: losses.information_flow([s], [t]),
}


@pytest.mark.slow
@pytest.mark.parametrize("relation", MEASURES)
def test_relations_are_losses_of_the_real_patches_of_each_image(relation):
  sides = _features((3, 7, 3), (3, 7, 4))
  mask = np.arange(7) < np.array([[7], [0], [5]])
  for side in sides:
    side[~mask] = np.nan
  function = jax.value_and_grad(
    lambda s: losses.patch_relations(s, sides[1], relation=relation, mask=mask)
  )
  value, gradient = jax.jit(function)(sides[0])
  measure = MEASURES[relation]
  images = [measure(*(side[i, :n] for side in sides)) for i, n in ((0, 7), (2, 5))]
  np.testing.assert_allclose(value, np.mean(images), rtol=1e-4)
  assert not gradient[~mask].any()
  assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_every_relation_takes_masks_of_patches_and_fits_itself():
  (tokens,) = _features((2, 6, 3))
  mask = np.arange(6) < np.array([[6], [5]])
  relations = [*_patch_relations.RELATIONS, losses.rkd_distance]

  @jax.jit
  def values(tokens):
    measure = functools.partial(losses.patch_relations, mask=mask)
    same = [measure(tokens, 2 * tokens, relation=each) for each in relations]
    other = [measure(tokens, tokens**2, relation=each) for each in relations]
    return jnp.stack(same), jnp.stack(other)

  same, other = values(tokens)
  np.testing.assert_allclose(same[1:], 0, atol=0.2)
  assert (other > same).all()
  np.testing.assert_allclose(other[-1], other[-2], rtol=1e-6)


@pytest.mark.slow
def test_maps_are_tokens_row_by_row_and_are_pooled_to_one_size():
  student, teacher = _features((2, 2, 3, 4), (2, 2, 3, 5))
  value = losses.patch_relations(student, teacher)
  tokens = student.reshape(2, 6, 4), teacher.reshape(2, 6, 5)
  for pair in (tokens, (student, tokens[1]), (tokens[0], teacher)):
    np.testing.assert_allclose(losses.patch_relations(*pair), value, rtol=1e-6)
  mask = np.arange(6) < np.array([[6], [4]])
  np.testing.assert_allclose(
    losses.patch_relations(student, teacher, mask=mask.reshape(2, 2, 3)),
    losses.patch_relations(*tokens, mask=mask),
    rtol=1e-6,
  )
  large = np.repeat(np.repeat(teacher, 2, 1), 2, 2)
  np.testing.assert_allclose(losses.patch_relations(student, large), value, rtol=1e-5)
  with pytest.raises(ValueError, match="mask: expected one entry per image"):
    losses.patch_relations(student, large, mask=mask.reshape(2, 2, 3))


def test_patches_that_do_not_fit_are_refused():
  tokens, maps = _features((2, 5, 4), (2, 2, 3, 4))
  with pytest.raises(
    ValueError, match="same number of tokens .* student has 5 .* has 6"
  ):
    losses.patch_relations(tokens, maps)
  with pytest.raises(ValueError, match="relation: expected one of 'gram'.*'cka'"):
    losses.patch_relations(tokens, tokens, relation="cka")
  with pytest.raises(ValueError, match=r"teacher: expected tokens .* shape \(2, 4\)"):
    losses.patch_relations(tokens, tokens[:, 0])
  with pytest.raises(ValueError, match="mask: expected shape"):
    losses.patch_relations(tokens, tokens, mask=np.ones((2, 4)))
  with pytest.raises(ValueError, match=r"debiased: .* patches in an image\), got 3"):
    losses.patch_relations(tokens[:, :3], tokens[:, :3], relation="debiased_linear_cka")
