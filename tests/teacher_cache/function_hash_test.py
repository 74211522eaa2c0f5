"""The hash of the functions that a model was made with."""

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax.teacher_cache import _function_hash


@dataclasses.dataclass
class _Model:
  function: Any = None


def _hash(function):
  return _function_hash.hash_functions(_Model(function))


def _capturing(value):
  return lambda x: (x, value)


def _with_default(value):
  return lambda x, y=value: (x, y)


def _with_keyword(value):
  return lambda x, *, y=value: (x, y)


def _partial(value):
  return functools.partial(lambda x, y: (x, y), y=value)


def _local_type(name):
  return type(name, (), {"__qualname__": f"_local_type.<locals>.{name}"})


# Values that differ, of each kind that a function may capture.
PAIRS = {
  "numbers": (1.0, 2.0),
  "texts": ("mean", "sum"),
  "arrays": (np.zeros(2, np.float32), np.ones(2, np.float32)),
  "shapes": (np.zeros(2, np.float32), np.zeros((1, 2), np.float32)),
  "device arrays": (jnp.zeros(2), jnp.ones(2)),
  "keys": (jax.random.key(0), jax.random.key(1)),
  "kinds of keys": (jax.random.key(0), jax.random.key_data(jax.random.key(0))),
  "tuples": ((1, 2), (2, 1)),
  "lambdas": (lambda x: x + 1, lambda x: x - 1),
  "functions of modules": (jax.nn.relu, jnp.tanh),
  "dtypes": (np.dtype(np.float16), np.dtype(np.float32)),
  "scalar types": (np.float16, np.float32),
  "types of JAX": (jnp.bfloat16, jnp.float32),
  "scalars of NumPy": (np.float32(1), np.float32(2)),
  "dictionaries": ({"a": 1}, {"a": 2}),
  "keys of dictionaries": ({"a": 1}, {"b": 1}),
  "sets": ({1, 2}, {1, 3}),
  "complex numbers": (1j, 2j),
  "slices": (slice(1), slice(2)),
  "functions of objects": ("a b".split, "a c".split),
  "local types": (_local_type("One"), _local_type("Other")),
}


@pytest.mark.parametrize(
  "wrap", [_capturing, _with_default, _with_keyword, _partial], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("kind", PAIRS)
def test_functions_that_differ_in_a_value_have_other_hashes(kind, wrap):
  one, other = PAIRS[kind]
  assert _hash(wrap(one)) != _hash(wrap(other))
  assert _hash(wrap(one)) == _hash(wrap(one))


def test_functions_that_differ_in_their_code_have_other_hashes():
  functions = (
    lambda x: x,
    lambda x: -x,
    lambda x: x + 1,
    lambda x: x + 2,
    lambda x: jnp.sin(x),
    lambda x: jnp.cos(x),
    lambda x: (lambda y: y + 1)(x),
    lambda x: (lambda y: y + 2)(x),
  )
  assert len({_hash(function) for function in functions}) == len(functions)


def test_functions_within_others_count():
  for wrap in (jax.jit, lambda f: (f, 1), lambda f: {"a": [f]}):
    assert _hash(wrap(lambda x: x + 1)) != _hash(wrap(lambda x: x + 2))


def test_objects_are_known_by_their_values_not_by_their_place_in_memory():
  @dataclasses.dataclass
  class Pool:
    size: int
    place: object = dataclasses.field(default_factory=object)

    def mean(self, x):
      return x

  def capturing(size):
    pool = Pool(size)
    return [_hash(_capturing(each)) for each in (pool, pool.mean)]

  assert capturing(2) == capturing(2)
  for one, two in zip(capturing(2), capturing(3), strict=True):
    assert one != two


@dataclasses.dataclass
class _Head:
  weights: Any

  def __repr__(self):
    return "a head"


class _Plain:
  def __init__(self, weights):
    self.weights = weights


@jax.tree_util.register_pytree_node_class
class _Tree(_Plain):
  def __repr__(self):
    return "a tree"

  def tree_flatten(self):
    return (self.weights,), None

  @classmethod
  def tree_unflatten(cls, _, children):
    return cls(*children)


@pytest.mark.parametrize("make", [_Head, _Plain, _Tree])
def test_arrays_inside_of_objects_count_whatever_these_say_of_themselves(make):
  weights = np.zeros(5000, np.float32)
  other = weights.copy()
  other[2500] = 1  # where NumPy shows dots
  hashes = [_hash(_capturing(make(array))) for array in (weights, other, weights)]
  assert hashes[0] != hashes[1]
  assert hashes[0] == hashes[2]


def test_objects_that_hold_each_other_are_followed_to_a_depth():
  one, two = _Plain(1), _Plain(2)
  one.other, two.other = two, one
  assert _hash(_capturing(one)) != _hash(_capturing(two))


@pytest.mark.parametrize("text", ["lambda x: SCALE * x", "lambda x: (lambda: SCALE)()"])
def test_globals_that_a_lambda_reads_count(text):
  hashes = [_hash(eval(text, {"SCALE": scale, "rest": scale})) for scale in (1, 2, 1)]
  assert hashes[0] != hashes[1]
  assert hashes[0] == hashes[2]


def test_modules_are_known_by_their_name_not_by_their_folder():
  assert [*_function_hash._captured(optax, 5)] == [b"optax"]


def test_sets_are_hashed_in_an_order_that_processes_share():
  (found,) = _function_hash._captured(frozenset({"b", "a", "c"}), 5)
  assert found == repr(["'a'", "'b'", "'c'"]).encode()


def test_names_of_arguments_of_a_partial_function_count():
  def function(x, one=0, other=0):
    return x, one, other

  partials = [functools.partial(function, **{name: 1}) for name in ("one", "other")]
  assert _hash(partials[0]) != _hash(partials[1])


def test_models_without_functions_of_their_own_have_an_empty_hash():
  assert _hash(None) == _hash(jax.nn.relu) == _hash("mean") == ""
  assert _function_hash.hash_functions(types.SimpleNamespace(module=3)) == ""


def test_functions_of_a_wrapped_module_count():
  def wrapped(function):
    return types.SimpleNamespace(module=_Model(function))

  found = [_function_hash.hash_functions(wrapped(f)) for f in (_capturing(1), None)]
  assert found == [_hash(_capturing(1)), ""]
