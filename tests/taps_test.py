"""Pairing of taps: the order of a mapping never matters, and a wrong one is refused."""

import collections
import functools
import inspect
import re
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flowkd_jax import capture
from flowkd_jax import evaluation
from flowkd_jax import flow
from flowkd_jax import losses
from flowkd_jax import models

NAMES = ("stem", "layer1", "pooled")  # sorted: layer1, pooled, stem
OTHER_NAMES = ("input", "middle", "end")
LABELS = np.arange(6, dtype=np.int32) % 2
LABELLED = {"labels": LABELS, "num_classes": 2}


def _taps(seed=0, names=NAMES, widths=(5, 3, 4)):
  rng = np.random.default_rng(seed)
  return {
    name: jnp.asarray(rng.standard_normal((6, width)), jnp.float32)
    for name, width in zip(names, widths, strict=True)
  }


def _reversed(taps):
  return dict(reversed(taps.items()))


CROSSINGS = {
  "jit": jax.jit(lambda taps: taps),
  "vmap": jax.vmap(lambda taps: taps),
  "scan": lambda taps: lax.scan(lambda carry, _: (carry, None), taps, length=1)[0],
  "grad": jax.grad(lambda taps: sum((tap**2).sum() / 2 for tap in taps.values())),
  "tree.map": lambda taps: jax.tree.map(lambda tap: tap, taps),
  "reversed": _reversed,
  "ordered": collections.OrderedDict,
}

# Functions of the taps of two networks, or of one.
BY_NAME = {
  "information_flow": losses.information_flow,
  "information_flow_terms": losses.information_flow_terms,
  "quadratic_flow": functools.partial(losses.quadratic_flow, **LABELLED),
  "quadratic_flow_terms": functools.partial(losses.quadratic_flow_terms, **LABELLED),
  "pair_taps": lambda *taps, **options: {
    pair.name: pair[1:] for pair in flow.pair_taps(*taps, **options)
  },
  "flow vectors": lambda *taps: [
    flow.information_flow(each, LABELS, 2) for each in taps
  ],
}
IN_ORDER = {
  "cka_matrix": evaluation.cka_matrix,
  "flow_distance_matrix": functools.partial(
    evaluation.flow_distance_matrix, **LABELLED
  ),
}
PAIRED = [name for name in BY_NAME if name != "flow vectors"]


def test_every_function_of_taps_is_tested_here():
  public = [
    *(getattr(losses, name) for name in losses.__all__),
    *(getattr(evaluation, name) for name in evaluation.__all__),
    *(function for _, function in inspect.getmembers(flow, inspect.isfunction)),
  ]
  types = flow.Taps, inspect.signature(evaluation.cka_matrix).parameters["student"]
  types = types[0], types[1].annotation
  found = {
    function.__name__
    for function in public
    if callable(function) and not inspect.isclass(function)
    for parameter in inspect.signature(function).parameters.values()
    if parameter.annotation in types
  }
  # Layers in their order, as a sequence: a mapping has none that would last.
  found -= {"kdsvd", "review_kd"}
  assert found - {"information_flow"} == {*PAIRED, *IN_ORDER} - {"information_flow"}


@functools.cache
def _uncrossed(name):
  return BY_NAME[name](_taps(0), _taps(1))


@pytest.mark.parametrize("crossing", CROSSINGS)
@pytest.mark.parametrize("name", BY_NAME)
def test_the_order_of_a_mapping_changes_nothing(name, crossing):
  cross = CROSSINGS[crossing]
  expected = _uncrossed(name)
  for student, teacher in (
    (cross(_taps(0)), _taps(1)),
    (_taps(0), cross(_taps(1))),
  ):
    actual = BY_NAME[name](student, teacher)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_a_teacher_that_is_an_argument_of_jit_is_paired_by_name(name):
  # The student's dictionary is made inside and keeps its order; the teacher's is
  # sorted. The library once compared "stem" with "layer1" here.
  @jax.jit
  def loss(arrays, teacher):
    return BY_NAME[name](dict(zip(NAMES, arrays, strict=True)), teacher)

  taps = _taps(0)
  actual = loss(list(taps.values()), taps)
  chex.assert_trees_all_close(actual, BY_NAME[name](taps, taps), rtol=1e-5, atol=1e-6)
  if name in ("information_flow", "quadratic_flow"):
    np.testing.assert_allclose(actual, 0, atol=1e-6)


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_join_taps_of_other_names(name):
  pairs = dict(zip(NAMES, OTHER_NAMES, strict=True))
  options = {"pairs": pairs}
  teacher = _taps(1, OTHER_NAMES)
  expected = _uncrossed(name)
  for cross in (CROSSINGS["jit"], _reversed):
    actual = BY_NAME[name](cross(_taps(0)), cross(teacher), **options)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)
  items = [*_taps(0).items()], [*_reversed(teacher).items()]
  chex.assert_trees_all_close(BY_NAME[name](*items, **options), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["information_flow", "quadratic_flow"])
def test_weights_go_by_name_too(name):
  weights = dict(zip(NAMES, (100.0, 10.0, 1.0), strict=True))
  terms = _uncrossed(f"{name}_terms")
  expected = sum(weights[tap] * terms[tap] for tap in NAMES)
  for given in (weights, _reversed(weights), jax.jit(lambda x: x)(weights)):
    actual = BY_NAME[name](_taps(0), _taps(1), weights=given)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
  chosen = {"stem": "pooled"}
  actual = BY_NAME[name](_taps(0), _taps(1), pairs=chosen, weights={"stem": 2.0})
  terms = BY_NAME[f"{name}_terms"](_taps(0), _taps(1), pairs=chosen)
  np.testing.assert_allclose(actual, 2 * terms["stem"], rtol=1e-6)


def test_weighted_sum_does_not_depend_on_the_order_to_the_last_bit():
  terms = {f"tap_{i}": jnp.float32(x) for i, x in enumerate((1e8, 1.0, -1e8, 0.3))}
  weights = dict.fromkeys(terms, 1.0)
  actual = losses.weighted_sum(_reversed(terms), weights)
  assert actual == losses.weighted_sum(terms, _reversed(weights))
  with pytest.raises(TypeError, match="weights: expected a weight for each of 'tap_0'"):
    losses.weighted_sum(terms, (1.0, 1.0, 1.0, 1.0))
  with pytest.raises(TypeError, match="terms: expected a mapping of scalars by name"):
    losses.weighted_sum(list(terms.values()), None)


@pytest.mark.parametrize("name", PAIRED)
def test_spare_teacher_taps_are_ignored(name):
  teacher = {"extra": jnp.ones((6, 2)), **_taps(1)}
  chex.assert_trees_all_close(
    BY_NAME[name](_taps(0), teacher), _uncrossed(name), rtol=1e-6
  )


def _network(name, key, images):
  model = models.by_name(name, num_classes=10)
  return model, capture.init(model, jax.random.key(key), images)


@pytest.mark.slow
def test_networks_of_other_architectures_are_paired_by_name():
  images = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 8, 8, 1)), jnp.float32)
  student, teacher = (
    _network("digits_cnn:4", 0, images),
    _network("digits_resnet:16", 1, images),
  )
  pairs = dict(zip(student[0].taps, teacher[0].taps, strict=True))
  taught = jax.jit(lambda x: capture.apply_with_taps(*teacher, x)[1])(images)

  @jax.jit
  def by_name_and_by_position(images, taught):
    taps = capture.apply_with_taps(*student, images)[1]
    in_order = [taps[name] for name in pairs], [taught[pairs[name]] for name in pairs]
    cosine = {"kernels": ("cosine",)}
    quadratic = functools.partial(losses.quadratic_flow, **cosine, **LABELLED)
    return (
      losses.information_flow(taps, taught, pairs=pairs, **cosine),
      losses.information_flow(*in_order, **cosine),
      quadratic(taps, taught, pairs=pairs),
      quadratic(*in_order, layer_map=range(len(pairs))),
    )

  by_name, by_position, quadratic, other = by_name_and_by_position(images, taught)
  np.testing.assert_allclose(by_name, by_position, rtol=1e-6)
  np.testing.assert_allclose(quadratic, other, rtol=1e-6)


@pytest.mark.parametrize("name", PAIRED)
def test_other_names_are_refused_with_the_argument_to_write(name):
  message = (
    "the teacher has no tap 'input', 'end', only 'stem', 'layer1', 'pooled'; pass "
    "pairs={'input': 'TEACHER_TAP', 'layer1': 'layer1', 'end': 'TEACHER_TAP'} with"
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    BY_NAME[name](_taps(0, ("input", "layer1", "end")), _taps(1))


class Layers(NamedTuple):
  pooled: jax.Array
  stem: jax.Array


ARRAYS = list(_taps(0).values())
ITEMS = list(_taps(0).items())
REFUSED = {
  "unknown student tap": (
    (_taps(), _taps(), {"pairs": {"stm": "stem"}}),
    "pairs: the student has no tap 'stm'; it has 'stem', 'layer1', 'pooled'",
  ),
  "unknown teacher tap": (
    (_taps(), _taps(), {"pairs": {"stem": "stm"}}),
    "pairs: the teacher has no tap 'stm'; it has 'stem'",
  ),
  "no pairs": ((_taps(), _taps(), {"pairs": {}}), "pairs: expected at least one"),
  "pairs in a list": (
    (_taps(), _taps(), {"pairs": [("stem", "stem")]}),
    "pairs: expected a mapping from student taps to teacher taps",
  ),
  "several teacher taps": (
    (_taps(), _taps(), {"pairs": {"stem": ["stem", "pooled"]}}),
    "pairs: expected a mapping from student taps to teacher taps",
  ),
  "pairs of arrays": (
    (ARRAYS, ARRAYS, {"pairs": {"stem": "stem"}}),
    "pairs: these taps have no names",
  ),
  "student with names": (
    (_taps(), ARRAYS, {}),
    "teacher: expected taps with names, as the student has",
  ),
  "teacher with names": (
    (ARRAYS, ITEMS, {}),
    "student: expected taps with names, as the teacher has",
  ),
  "fewer teacher taps": (
    (ARRAYS, ARRAYS[:2], {"layer_map": None}),
    "the student has 3 and the teacher 2; pass layer_map",
  ),
  "both arguments": (
    (ARRAYS, ARRAYS, {"pairs": {"a": "b"}, "layer_map": (0, 1, 2)}),
    "pairs, layer_map: expected one of them, got both",
  ),
  "layer map of a mapping": (
    (_taps(), _taps(), {"layer_map": (0, 1, 2)}),
    "layer_map: expected sequences of taps, which have indices, but student is a map",
  ),
  "layer map by name": (
    (ARRAYS, ARRAYS, {"layer_map": {0: 0, 1: 1, 2: 2}}),
    "layer_map: expected 3 teacher indices from 0 to 2",
  ),
  "layer map of fractions": (
    (ARRAYS, ARRAYS, {"layer_map": (0, 0.5, 1)}),
    "layer_map: expected 3 teacher indices from 0 to 2",
  ),
  "layer map of truth values": (
    (ARRAYS, ARRAYS, {"layer_map": (True, False, True)}),
    "layer_map: expected 3 teacher indices from 0 to 2",
  ),
  "layer map without order": (
    (ARRAYS, ARRAYS, {"layer_map": {0, 1, 2}}),
    "layer_map: expected 3 teacher indices from 0 to 2",
  ),
  "an array": (
    (ARRAYS[0], ARRAYS[0], {}),
    r"student: expected taps as .*, got an array of shape \(6, 5\); write \[array\]",
  ),
  "nothing": ((ARRAYS, None, {}), "teacher: expected taps as .*, got a NoneType"),
  "a view": (
    (_taps().values(), ARRAYS, {}),
    "student: expected taps as .* got a dict_values",
  ),
  "no taps": (({}, _taps(), {}), "student: expected at least one activation"),
  "some names": (
    ([*ITEMS[:2], ARRAYS[2]], ITEMS, {}),
    r"student: expected \(name, array\) pairs alone or arrays alone, got both",
  ),
  "a name twice": (
    (ITEMS, [*ITEMS, ITEMS[0]], {}),
    r"teacher: expected each name once, got .*stem",
  ),
  "a pair alone": ((ITEMS[0], ITEMS, {}), "student: expected an array for tap 'tap 0'"),
  "nested": (
    ({"layers": _taps()}, _taps(), {}),
    "student: expected an array for tap 'layers'",
  ),
  "mixed types of names": (
    ({0: ARRAYS[0], "stem": ARRAYS[1]}, _taps(), {}),
    "the teacher has no tap 0, only 'stem', 'layer1', 'pooled'",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", PAIRED)
def test_what_cannot_be_paired_is_refused(name, case):
  (student, teacher, options), message = REFUSED[case]
  if name.startswith("quadratic") and case == "fewer teacher taps":
    options = {"layer_map": (0, 1)}  # None is "nearest" there, which may
    message = "layer_map: expected 3 teacher indices from 0 to 1"
  with pytest.raises((TypeError, ValueError), match=message):
    BY_NAME[name](student, teacher, **options)


def test_weights_of_mixed_names_are_refused_in_words():
  taps = {0: ARRAYS[0], "stem": ARRAYS[1]}
  with pytest.raises(ValueError, match=r"weights: expected one .* got \[1, 'stem'\]"):
    losses.information_flow(taps, taps, weights={"stem": 1.0, 1: 1.0})


def test_fields_of_a_named_tuple_are_names():
  taps = _taps(0)
  layers = Layers(pooled=taps["pooled"], stem=taps["stem"])
  paired = flow.pair_taps(layers, taps)
  assert [pair.name for pair in paired] == ["pooled", "stem"]
  for pair in paired:
    assert pair.student is pair.teacher


@pytest.mark.parametrize("name", IN_ORDER)
def test_functions_of_the_order_take_pairs_and_refuse_mappings(name):
  function, teacher = IN_ORDER[name], [*_taps(1).items()]
  expected = function(ARRAYS, [tap for _, tap in teacher])
  np.testing.assert_array_equal(function(ITEMS, teacher), expected)
  shown = re.escape("[(name, student[name]) for name in ('stem', 'layer1', 'pooled',)]")
  for mapping in (_taps(0), collections.OrderedDict(_taps(0))):
    with pytest.raises(TypeError, match=f"student: the order of the taps .* {shown}"):
      function(mapping, teacher)
    with pytest.raises(TypeError, match="teacher: the order of the taps matters"):
      function(teacher, mapping)


@pytest.mark.slow
def test_nearest_flow_needs_an_order():
  teacher = [*_taps(1).items()]
  expected = losses.quadratic_flow(ARRAYS, [tap for _, tap in teacher], **LABELLED)
  nearest = functools.partial(losses.quadratic_flow, layer_map="nearest", **LABELLED)
  np.testing.assert_allclose(nearest(ITEMS, teacher), expected, rtol=1e-6)
  with pytest.raises(TypeError, match="student: the order of the taps matters"):
    nearest(_taps(0), teacher)
  with pytest.raises(ValueError, match="pairs, layer_map: expected one of them"):
    nearest(ITEMS, teacher, pairs={"stem": "stem"})


@pytest.mark.slow
def test_flow_vectors_have_the_order_of_a_sequence_and_no_names():
  by_name = flow.information_flow(_taps(0), LABELS, 2)
  vector = flow.information_flow(ITEMS, LABELS, 2)
  np.testing.assert_allclose(vector, [by_name[name] for name in NAMES], rtol=1e-6)
  shown = re.escape("jnp.stack([student_flow[name] for name in ('stem', 'layer1', ")
  for function in (flow.flow_divergence, flow.flow_differences, flow.nearest_layers):
    with pytest.raises(TypeError, match=f"student_flow: expected a vector.* {shown}"):
      function(by_name, vector)
    with pytest.raises(TypeError, match="teacher_flow: expected a vector"):
      function(vector, by_name)
  with pytest.raises(TypeError, match="weights: expected a vector"):
    flow.flow_divergence(vector, vector, weights=by_name)
