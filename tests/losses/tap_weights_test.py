"""Weights of terms by name."""

import jax.numpy as jnp
import pytest

from flowkd_jax.losses import _tap_weights

TERMS = {"a": jnp.float32(2), "b": jnp.float32(3)}


def test_weighted_sum_weighs_terms_by_name():
  assert _tap_weights.weighted_sum(TERMS, None) == 5
  assert _tap_weights.weighted_sum(TERMS, {"b": 10.0, "a": 1.0}) == 32


@pytest.mark.parametrize(
  ("error", "terms", "weights", "match"),
  [
    (TypeError, [1.0], None, "terms: expected a mapping of scalars by name, got a l"),
    (TypeError, TERMS, [1.0, 2.0], "weights: expected a weight for each of"),
    (ValueError, TERMS, {"a": 1.0}, "weights: expected one for each of"),
    (TypeError, TERMS, {"a": 1.0, "b": "x"}, "weights: expected a number for 'b'"),
  ],
)
def test_weighted_sum_refuses_what_it_cannot_weigh(error, terms, weights, match):
  with pytest.raises(error, match=match):
    _tap_weights.weighted_sum(terms, weights)


def test_weights_in_a_sequence_have_the_order_of_the_taps():
  taps = [jnp.ones((2, 3))] * 2
  assert _tap_weights.named_weights([0, 1], [4.0, 5.0], taps, None) == {0: 4.0, 1: 5.0}
  assert _tap_weights.named_weights([0, 1], None, taps, None) == {0: 1.0, 1: 1.0}
  with pytest.raises(ValueError, match="weights: expected 2, one per tap, got 1"):
    _tap_weights.named_weights([0, 1], [4.0], taps, None)
  with pytest.raises(TypeError, match="weights: expected a sequence of 2"):
    _tap_weights.named_weights([0, 1], {"a": 1.0, "b": 1.0}, taps, None)
