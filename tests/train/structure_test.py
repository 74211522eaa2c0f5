"""Names, shapes, dtypes and checksums of the arrays of a state."""

import hashlib
from typing import NamedTuple

import numpy as np
import pytest

from flowkd_jax.train import _structure


class _State(NamedTuple):
  step: np.ndarray
  weights: dict


def _state(**changes):
  weights = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.int8)}
  return _State(np.array(5, np.int32), {**weights, **changes})


def test_structure_names_every_array_with_dtype_and_shape():
  assert _structure.structure(_state()) == {
    "step": ["int32", []],
    "weights.a": ["float32", [2, 3]],
    "weights.b": ["int8", [4]],
  }


def test_checksum_is_over_names_dtypes_shapes_and_values():
  value = np.arange(3, dtype=np.int16)
  expected = hashlib.sha256(b"x int16 (3,)\n" + value.tobytes()).hexdigest()
  assert _structure.checksum({"x": value}) == expected
  strided = np.arange(6, dtype=np.int16)[::2] // 2
  assert _structure.checksum({"x": strided}) == expected


@pytest.mark.parametrize(
  "other",
  [
    np.ones(4, np.uint8),
    np.ones((2, 2), np.int8),
    np.array([1, 1, 1, 2], np.int8),
  ],
)
def test_checksum_tells_dtypes_shapes_and_values_apart(other):
  assert _structure.checksum(_state(b=other)) != _structure.checksum(_state())


def test_checksum_does_not_depend_on_the_order_of_names():
  one, two = np.zeros(1), np.ones(2)
  forward, backward = {"a": one, "b": two}, {"b": two, "a": one}
  assert _structure.checksum(forward) == _structure.checksum(backward)
  assert _structure.checksum({"a": two, "b": one}) != _structure.checksum(forward)


def test_difference_names_the_first_arrays_and_counts_the_rest():
  found = _structure.structure(_state())
  assert _structure.difference(found, _state(), here="this model") is None
  wider = _state(a=np.zeros((2, 4), np.float32))
  assert _structure.difference(found, wider, here="this model") == (
    "weights.a is float32[2, 3] there and float32[2, 4] in this model"
  )
  more = {f"w{n}": np.zeros(1, np.float32) for n in range(5)}
  said = _structure.difference({}, more, here="it")
  assert said.startswith("w0 is absent there and float32[1] in it; w1 is")
  assert said.endswith("; and 2 more")
