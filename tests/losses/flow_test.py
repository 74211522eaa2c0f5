"""Losses over several taps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import flow
from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax._numerics import row_blocks

LABELS = jnp.arange(10, dtype=jnp.int32) % 3


def _taps(seed, widths=(6, 4, 4)):
  rng = np.random.default_rng(seed)
  return {
    f"tap_{index}": jnp.asarray(rng.standard_normal((10, width)), jnp.float32)
    for index, width in enumerate(widths)
  }


@pytest.mark.slow
def test_information_flow_is_the_weighted_sum_of_its_terms():
  student, teacher = _taps(0), _taps(1, (8, 8, 9))
  terms = jax.jit(losses.information_flow_terms)(student, teacher)
  assert list(terms) == list(student)
  pair = [kernels.cosine(), kernels.student_t()]
  divergence = jax.jit(functools.partial(losses.conditional_divergence, kernels=pair))
  expected = [
    divergence(s, t) for s, t in zip(student.values(), teacher.values(), strict=True)
  ]
  np.testing.assert_allclose(list(terms.values()), expected, rtol=1e-5)
  weights = (100.0, 100.0, 1.0)
  by_name = dict(zip(terms, weights, strict=True))
  in_order = [[*student.values()], [*teacher.values()]]
  for given, taps in ((weights, in_order), (by_name, (student, teacher))):
    loss = jax.jit(functools.partial(losses.information_flow, weights=given))
    np.testing.assert_allclose(loss(*taps), np.dot(weights, expected), rtol=1e-5)


@pytest.mark.slow
def test_layer_map_pairs_taps_of_networks_of_different_depth():
  student, teacher = (
    list(taps.values()) for taps in (_taps(0, (6, 4)), _taps(1, (8, 8, 9)))
  )
  terms = jax.jit(functools.partial(losses.information_flow_terms, layer_map=(0, 2)))(
    student, teacher
  )
  expected = jax.jit(losses.information_flow)([student[1]], [teacher[2]])
  np.testing.assert_allclose(terms["tap 1"], expected, rtol=1e-6)
  with pytest.raises(
    ValueError, match="student has 2 and the teacher 3; pass layer_map"
  ):
    losses.information_flow(student, teacher)
  with pytest.raises(ValueError, match="layer_map: expected 2 teacher indices"):
    losses.information_flow(student, teacher, layer_map=(0, 3))


@pytest.mark.slow
def test_quadratic_flow_is_the_relative_flow_divergence():
  student, teacher = (
    list(taps.values()) for taps in (_taps(0), _taps(1, (8, 8, 9, 5)))
  )
  options = {"labels": LABELS, "num_classes": 3}

  @jax.jit
  def expected_and_actual(student, teacher):
    expected = [
      flow.flow_divergence(
        flow.information_flow(student, LABELS, 3, kernel=kernels.by_name(name)),
        flow.information_flow(teacher, LABELS, 3, kernel=kernels.by_name(name)),
        relative=True,
      )
      for name in ("cosine", "student_t")
    ]
    return expected, losses.quadratic_flow(student, teacher, **options)

  expected, actual = expected_and_actual(student, teacher)
  np.testing.assert_allclose(actual, sum(expected), rtol=1e-4)
  assert expected_and_actual(student, student)[1] == 0


def test_weights_must_match_the_taps():
  taps = dict.fromkeys(_taps(0))  # refused before any tap is looked at
  options = {"labels": LABELS, "num_classes": 3}
  for loss in (
    losses.information_flow,
    functools.partial(losses.quadratic_flow, **options),
  ):
    with pytest.raises(ValueError, match="weights: expected 3, one per tap, got 2"):
      loss([*taps.values()], [*taps.values()], weights=(1.0, 1.0))
    with pytest.raises(
      TypeError, match="weights: expected a weight for each of 'tap_0"
    ):
      loss(taps, taps, weights=(1.0, 1.0, 1.0))
    with pytest.raises(TypeError, match="weights: expected a sequence of 3"):
      loss([*taps.values()], [*taps.values()], weights={"tap 0": 1.0})
    for wrong in ("one", (1.0,), None, jnp.ones(10), lambda step: 1.0):
      with pytest.raises(TypeError, match="weights: expected a number for 'tap_1'"):
        loss(taps, taps, weights={"tap_0": 1.0, "tap_1": wrong, "tap_2": 1.0})
    with pytest.raises(TypeError, match=r"weights: expected a weight .* got a float"):
      loss([*taps.values()], [*taps.values()], weights=1.0)
    with pytest.raises(ValueError, match=r"each of \['tap_0'.* got \['tap_9'\]"):
      loss(taps, taps, weights={"tap_9": 1.0})


def test_unknown_names_are_refused():
  student = _taps(0)
  with pytest.raises(ValueError, match="kernels: expected one of"):
    losses.information_flow(student, student, kernels=["cosinus"])
  with pytest.raises(ValueError, match="divergence: expected one of"):
    losses.information_flow(student, student, divergence="js")


@pytest.mark.slow
def test_kernels_and_divergences_are_objects_or_names():
  student, teacher = _taps(0, (6,)), _taps(1, (8,))
  own = lambda log_student, log_teacher: jnp.abs(log_teacher - log_student)
  same = {
    "kernels": (["von_mises_fisher:8"], [kernels.von_mises_fisher(8.0)]),
    "divergence": ("smoothed_kl:1e-3", information.smoothed_kullback_leibler(1e-3)),
  }

  @jax.jit
  def values(student, teacher):
    loss = functools.partial(losses.information_flow, student, teacher)
    quadratic = functools.partial(
      losses.quadratic_flow, student, teacher, labels=LABELS, num_classes=3
    )
    alike = [[loss(**{name: each}) for each in pair] for name, pair in same.items()]
    alike.append([quadratic(kernels=each) for each in same["kernels"]])
    alike.append([loss(kernels="cosine"), loss(kernels=[kernels.cosine()])])
    return alike, [loss(kernels="von_mises_fisher"), loss(divergence=own), loss()]

  alike, others = values(student, teacher)
  for one, other in alike:
    assert one == other != 0
  assert len({float(value) for value in [*others, alike[0][0]]}) == 4


@pytest.mark.parametrize(
  ("kernel", "message"),
  [
    ("rbf:0", r"kernels: expected rbf:BANDWIDTH, the bandwidth a number above 0"),
    ("rbf:-1", r"above 0 and finite in float32, got 'rbf:-1'"),
    ("rbf:nan", r"got 'rbf:nan'"),
    ("rbf:1e39", r"got 'rbf:1e39'"),
    ("rbf:1e-39", r"got 'rbf:1e-39'"),
    ("rbf:", r"got 'rbf:'"),
    ("rbf:1:2", r"got 'rbf:1:2'"),
    ("cosine:1", r"kernels: expected cosine, which has no parameter, got 'cosine:1'"),
    ("Cosine", r"expected one of cosine, student_t\[:DEGREE\], rbf\[:BANDWIDTH\]"),
  ],
)
def test_texts_that_are_no_kernel_are_refused(kernel, message):
  student = _taps(0)
  with pytest.raises(ValueError, match=message):
    losses.information_flow(student, student, kernels=[kernel])


def test_objects_that_are_no_kernel_or_divergence_are_refused():
  loss = functools.partial(losses.information_flow, _taps(0), _taps(0))
  with pytest.raises(TypeError, match=r"kernels: .* got 'cosine' of type function"):
    loss(kernels=[kernels.cosine])
  with pytest.raises(TypeError, match="kernels: .* got 3.0 of type float"):
    loss(kernels=3.0)
  with pytest.raises(ValueError, match="kernels: expected at least one kernel"):
    loss(kernels=[])
  with pytest.raises(TypeError, match="divergence: .* got 1.0 of type float"):
    loss(divergence=1.0)
  with pytest.raises(ValueError, match="divergence: expected smoothed_kl:EPSILON"):
    loss(divergence="smoothed_kl:-1")
  with pytest.raises(ValueError, match="expected one of .* without parameters"):
    loss(kernels="rbf:2", authors=True)


@pytest.mark.slow
def test_kernel_objects_take_the_place_of_the_authors_kernels():
  taps = _taps(0, (6,)), _taps(1, (8,))
  loss = jax.jit(
    lambda *taps: [
      losses.information_flow(*taps, authors=True, kernels=each)
      for each in ("cosine", kernels.authors_kernel("cosine"), kernels.cosine())
    ]
  )
  by_name, same, ours = loss(*taps)
  assert by_name == same != ours


@pytest.mark.slow
@pytest.mark.parametrize("entries", [2**18, 1])
def test_taps_of_equal_shapes_are_compiled_once(entries, monkeypatch):
  monkeypatch.setattr(row_blocks, "_ENTRIES_ON_CPU", entries)  # together, or in turn
  student, teacher = (_taps(seed, (4, 6, 4, 4, 4)) for seed in (0, 1))
  teacher["tap_3"] = teacher["tap_3"].astype(jnp.bfloat16)
  mask = jnp.arange(10) < 8

  def value_and_gradient(names):
    def loss(student):
      taps = ({name: side[name] for name in names} for side in (student, teacher))
      terms = losses.information_flow_terms(*taps, mask=mask, block_size=10)
      return sum(terms.values()), terms

    return jax.value_and_grad(loss, has_aux=True)

  few, many = (
    len(jax.make_jaxpr(value_and_gradient(names))(student).eqns)
    for names in (("tap_0", "tap_1", "tap_2"), student)
  )
  assert many - few < 60
  (_, terms), gradient = jax.jit(value_and_gradient(student))(student)
  assert list(terms) == list(student)
  for name in ("tap_1", "tap_3"):
    (_, alone), expected = jax.jit(value_and_gradient([name]))(student)
    np.testing.assert_allclose(terms[name], alone[name], rtol=1e-5)
    np.testing.assert_allclose(gradient[name], expected[name], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_old_names_of_arguments_work_with_a_warning():
  loss = functools.partial(losses.information_flow, _taps(0, (6,)), _taps(1, (8,)))
  with pytest.warns(DeprecationWarning, match="kernel_names is called kernels"):
    old = loss(kernel_names=("cosine",))
  assert old == loss(kernels=("cosine",))
  with pytest.warns(DeprecationWarning, match="divergence_name is called divergence"):
    loss(divergence_name="kl")
  with pytest.raises(TypeError, match="expected kernels alone, got kernel_names too"):
    loss(kernel_names=("cosine",), kernels=("cosine",))


@pytest.mark.slow
def test_information_flow_is_traced_once_for_kernels_of_other_parameters():
  chex.clear_trace_counter()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def value_and_grad(student, teacher, kernel, mask):
    loss = functools.partial(losses.information_flow, teacher=teacher, kernels=kernel)
    return jax.value_and_grad(loss)(student, mask=mask)

  student, teacher = _taps(0, (6,)), _taps(1, (8,))
  kernel, values = kernels.rbf(jnp.float32(1.0)), []
  for bandwidth, rows in ((1.0, 10), (2.0, 10), (2.0, 7)):
    chosen = jax.tree.map(lambda _, width=bandwidth: jnp.float32(width), kernel)
    mask = jnp.arange(10) < rows
    values.append(value_and_grad(student, teacher, chosen, mask))
  chex.assert_tree_all_finite(values)
  assert len({float(value) for value, _ in values}) == 3
