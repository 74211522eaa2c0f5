"""Names of taps: calls, patterns, and messages about wrong ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax.capture import _names
from flowkd_jax.capture._tags import Label
from flowkd_jax.capture._tags import Tagged


def _tap(name, sown=True):
  return _names.Tap(name, sown, (8, 3, 4), np.dtype("float16"), 10)


def _tagged(name, value, *, sown=True, part=None, loops=0):
  return Tagged(Label(name, sown, part), jnp.asarray(value), loops)


def test_tap_counts_what_a_row_takes():
  tap = _tap("dense")
  assert (tap.width, tap.row_bytes, tap.pair_flops) == (12, 24, 24)


def test_named_numbers_calls_loops_and_parts():
  sown, modules = _names.named(
    [
      _tagged("once", [1]),
      _tagged("twice", [2]),
      _tagged("twice", [3]),
      _tagged("scanned", [[4], [5]], loops=1),
      _tagged("pair", [6], sown=False, part=0),
      _tagged("pair", [7], sown=False, part=1),
      _tagged("once", [8], sown=False),
    ]
  )
  values = {name: int(value[0]) for name, value in sown.items()}
  assert values == {
    "once": 1,
    "twice/0": 2,
    "twice/1": 3,
    "scanned/0": 4,
    "scanned/1": 5,
  }
  # The module "once" is hidden by what is sown under its name.
  assert [*modules] == ["pair/0", "pair/1"]


@pytest.mark.parametrize(
  ("pattern", "path", "expected"),
  [
    ("block_*", "block_1", True),
    ("block_*", "block_1/conv", False),
    ("**/conv", "conv", True),
    ("**/conv", "a/b/conv", True),
    ("a/**", "a", True),
    ("a/?", "a/bc", False),
    ("block/0", "block", True),  # the number of a call
    ("block/0/1", "block", True),  # and that of an array
    ("block/conv", "block", False),
    ("A", "a", False),
  ],
)
def test_any_matches_follows_parts_and_numbers(pattern, path, expected):
  assert _names.any_matches((pattern,))(path) is expected


def test_expand_keeps_order_exact_names_and_what_matches_nothing():
  found = dict.fromkeys(["b/1", "b/2", "a", "b/*"])
  assert _names.expand(found, ["a", "b/[12]", "a", "none"]) == (
    "a",
    "b/1",
    "b/2",
    "none",
  )
  assert _names.expand(found, ["b/*"]) == ("b/*",)


@pytest.mark.parametrize("taps", ["dense", b"dense", {"dense"}, 3])
def test_checked_refuses_what_has_no_stated_order(taps):
  with pytest.raises(TypeError, match="taps: expected a sequence of names"):
    _names.checked(taps)


def test_checked_makes_tuples_of_strings():
  assert _names.checked(None) is None
  assert _names.checked(name for name in "ab") == ("a", "b")
  with pytest.raises(TypeError, match="names that are strings, got 1, None"):
    _names.checked(["a", 1, None])


def test_messages_list_taps_and_name_the_nearest():
  message = _names.no_such_taps("Net", ["dens"], [_tap("dense"), _tap("conv", False)])
  assert message == (
    "taps: Net has no dens; it sows dense and has the modules conv; did you mean dense?"
  )
  _names.check_paths("Net", ["dense", "c*/0"], ["dense", "conv"])
  with pytest.raises(ValueError, match=r"Net has no x\*, cnv; .* modules dense, conv$"):
    _names.check_paths("Net", ["x*", "cnv"], ["dense", "conv"])
  with pytest.raises(ValueError, match="did you mean conv"):
    _names.check_paths("Net", ["cnv"], ["dense", "conv"])
