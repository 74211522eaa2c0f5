"""Teacher taps of student taps: given, read, found."""

import json

import numpy as np
import pytest

from flowkd_jax import train
from flowkd_jax.jobs import layer_matching


def test_layer_maps_that_do_not_fit_are_refused():
  taps = ("block_1", "dense"), ("stage_1", "stage_2", "pooled")
  for text, match in {
    "": "--layer_map: the student has the taps block_1, dense, its teacher stage_1",
    "block_1:stage_9": "--layer_map: no tap stage_9; there are stage_1, stage_2",
    "dens:pooled": "--layer_map: no tap dens; there are block_1, dense",
    "nothing.json": "--layer_map: expected auto, auto_debiased, kappa, pairs such",
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
  with pytest.raises(ValueError, match="expected equal names or equally many taps"):
    layer_matching.given_layers("", ("stem", "end"), ("end", "last"))


def _features(**taps):
  labels = np.arange(6, dtype=np.int32) % 2
  return train.Features(np.zeros((6, 2), np.float32), taps, labels)


@pytest.mark.slow
def test_found_layers_are_those_most_alike_and_are_written(tmp_path):
  rng = np.random.default_rng(0)
  first, second, other = rng.normal(size=(3, 6, 4)).astype(np.float32)
  student = _features(low=first, high=second)
  teacher = _features(a=2 * first, b=other, c=second)
  found = layer_matching.found_layers(
    "auto", student, teacher, num_classes=2, folder=tmp_path
  )
  assert found == {"low": "a", "high": "c"}
  written = json.loads((tmp_path / layer_matching.FILE).read_text())
  assert (written["how"], written["layer_map"]) == ("auto", found)
  np.testing.assert_allclose(written["cka"][0][0], 1, rtol=1e-5)
  assert (tmp_path / "layer_map.png").exists()
  path = str(tmp_path / layer_matching.FILE)
  read = layer_matching.given_layers(path, tuple(student.taps), tuple(teacher.taps))
  assert read == found


@pytest.mark.slow
def test_layers_are_found_by_debiased_alignment_too(tmp_path):
  rng = np.random.default_rng(7)
  first, second = rng.normal(size=(2, 6, 4)).astype(np.float32)
  wide = rng.normal(size=(6, 500)).astype(np.float32)
  noisy = first + 1.3 * rng.normal(size=(6, 4)).astype(np.float32)
  student = _features(low=first, high=second)
  teacher = _features(a=noisy, b=wide, c=second)
  found = {
    how: layer_matching.found_layers(
      how, student, teacher, num_classes=2, folder=tmp_path
    )
    for how in ("auto", "auto_debiased")
  }
  assert found["auto_debiased"] == {"low": "a", "high": "c"}
  assert found["auto"] == {"low": "b", "high": "c"}
  written = json.loads((tmp_path / layer_matching.FILE).read_text())
  assert written["how"] == "auto_debiased"
