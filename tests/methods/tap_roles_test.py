"""Taps by their roles."""

import jax
import numpy as np
import pytest

from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax.methods import _tap_roles

NET = _tap_roles.Layout(
  {"stem": (8, 8, 2), "a": (8, 8, 2), "b": (4, 4, 4), "pooled": (4,)}, ("a", "b")
)
VIT = _tap_roles.Layout({"one": (16, 8), "two": (16, 8)})


@pytest.mark.parametrize(
  ("role", "expected"),
  [
    ("pooled", ("pooled",)),
    ("last_map", ("b",)),
    ("maps", ("a", "b")),
    ("map_2", ("b",)),
    ("levels", ("a", "b", "pooled")),
    ("taps", tuple(NET.shapes)),
  ],
)
def test_roles_are_found_by_shape(role, expected):
  assert _tap_roles.taps(role, "student", NET) == expected
  assert _tap_roles.is_tap_role(role)


def test_a_network_of_tokens_has_no_maps():
  assert _tap_roles.taps("tokens", "student", VIT) == ("two",)
  assert _tap_roles.taps("pooled", "student", VIT) == ("two",)
  with pytest.raises(ValueError, match="expected a teacher with maps, got one with"):
    _tap_roles.pairs("maps", NET, VIT)


def test_unlike_numbers_of_taps_are_refused():
  with pytest.raises(
    ValueError, match=r"as many maps .* Name the pairs, as in \[a:a\]"
  ):
    _tap_roles.pairs("maps", NET, _tap_roles.Layout({"a": (8, 8, 2)}, ("a",)))


def test_maps_are_the_full_maps_that_a_network_names():
  images = jax.ShapeDtypeStruct((2, 16, 16, 3), np.float32)
  model = models.by_name("resnet8x4:2")
  found = _tap_roles.layout(model, None, images)
  assert found.maps == ("f1", "f2", "f3")
  assert tuple(found.shapes) == model.taps
  assert {"f0", "f1_preact"} <= {*found.names}
  assert _tap_roles.layer_names(model)[: len(model.taps)] == model.taps
  pairs = methods.tap_pairs("last_map", model, model, (16, 16, 3))
  assert pairs == {"f3": "f3"}
  small = models.by_name("digits_cnn:2")
  images = jax.ShapeDtypeStruct((2, 8, 8, 1), np.float32)
  assert _tap_roles.layout(small, None, images).maps == ("block_1", "block_2")
