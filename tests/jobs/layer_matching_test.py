"""Teacher taps of student taps: given, read, found."""

import pytest

from flowkd_jax.jobs import layer_matching


def test_layer_maps_that_do_not_fit_are_refused():
  taps = ("block_1", "dense"), ("stage_1", "stage_2", "pooled")
  for text, match in {
    "": "--layer_map: the student has the taps block_1, dense, its teacher stage_1",
    "block_1:stage_9": "--layer_map: no tap stage_9; there are stage_1, stage_2",
    "dens:pooled": "--layer_map: no tap dens; there are block_1, dense",
    "nothing.json": "--layer_map: expected auto, kappa, pairs such as dense:pooled",
    "block_1:stage_1,block_1:stage_2": "--layer_map: expected pairs .* each student",
    "block_1:stage_1,dense": "--layer_map: expected pairs student_tap:teacher_tap",
    "block_1:": "--layer_map: expected pairs student_tap:teacher_tap",
  }.items():
    with pytest.raises(ValueError, match=match):
      layer_matching.given_layers(text, *taps)
  ordered = layer_matching.given_layers("dense:pooled,block_1:stage_2", *taps)
  assert list(ordered.items()) == [("block_1", "stage_2"), ("dense", "pooled")]


def test_empty_layer_map_pairs_taps_of_the_same_name():
  pairs = layer_matching.given_layers("", ("stem", "end"), ("end", "middle", "stem"))
  assert pairs == {"stem": "stem", "end": "end"}
  in_order = layer_matching.given_layers("", ("stem", "end"), ("first", "end"))
  assert in_order == {"stem": "first", "end": "end"}
  with pytest.raises(ValueError, match="expected the same names or as many others"):
    layer_matching.given_layers("", ("stem", "end"), ("end", "last"))
