"""Arrays of a tree by their path, and the tree again."""

import typing

import jax
import numpy as np
import pytest

from flowkd_jax.capture import _arrays


class _Variable(typing.NamedTuple):
  """A box around an array, as variables of modules are."""

  value: object


def test_by_path_names_arrays_without_the_box_that_holds_them():
  arrays, _ = _arrays.by_path(
    {"layer": {"kernel": _Variable(1), "bias": 2}, "list": [3, _Variable(4)]}
  )
  assert arrays == {"layer/kernel": 1, "layer/bias": 2, "list/0": 3, "list/1": 4}


def test_tree_puts_other_arrays_into_the_places_of_the_first():
  tree = {"b": _Variable(np.ones(2)), "a": (np.zeros(3), None)}
  arrays, layout = _arrays.by_path(tree)
  # In another order, as a dictionary leaves a compiled function.
  doubled = {name: 2 * arrays[name] for name in sorted(arrays, reverse=True)}
  again = layout.tree(doubled)
  assert jax.tree.structure(again) == jax.tree.structure(tree)
  np.testing.assert_array_equal(again["b"].value, [2, 2])
  np.testing.assert_array_equal(again["a"][0], [0, 0, 0])


def test_tree_without_arrays_comes_back():
  arrays, layout = _arrays.by_path({"a": None, "b": ()})
  assert arrays == {}
  assert layout.tree({}) == {"a": None, "b": ()}


@pytest.mark.parametrize(
  "tree", [{"a/b": 1, "a": {"b": 2}}, [{"0": 1}, 2, {"1/value": 3, "1": 4}]]
)
def test_keys_that_look_like_paths_hide_no_array(tree):
  arrays, layout = _arrays.by_path(tree)
  assert len(arrays) == len(jax.tree.leaves(tree))
  assert layout.tree(arrays) == tree
