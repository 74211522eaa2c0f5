"""Contract of every public loss: each test runs for each row of the table.

A new loss is one new row of `contract_rows.ROWS`: how to call it and the shapes of an
example. Each row runs through every test below; `exempt` names a test that cannot
apply, and why. Equalities are checked in float64, where 1e-6 is far above rounding.
"""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import contract_problems as problems
from tests.losses.contract_rows import BATCH
from tests.losses.contract_rows import NOT_LOSSES
from tests.losses.contract_rows import ROWS


def test_every_public_loss_has_a_row():
  tested = {name.split(",")[0] for name in ROWS}
  assert tested | set(NOT_LOSSES) == set(losses.__all__)


@pytest.mark.slow
@problems.every_loss
def test_value_and_gradient_take_part_of_both_sides(name, x64):
  student, teacher = problems.example(name, dtype=np.float64)
  value, gradients = problems.plain(name)(
    student, teacher, problems.ids(), problems.mask("most")
  )
  assert value.shape == ()
  assert value > 0
  assert np.abs(gradients[0]).max() > 0
  if "both sides" not in ROWS[name].exempt:
    assert np.abs(gradients[1]).max() > 0


@pytest.mark.slow
@problems.every_loss
def test_numpy_without_jit_equals_jit(name):
  student, teacher = problems.example(name)
  mask = problems.mask("most").astype(np.int32)
  eager = ROWS[name].call(student, teacher, problems.ids(), mask=mask)
  with jax.enable_x64(True):
    sides = student.astype(np.float64), teacher.astype(np.float64)
    jitted = problems.plain(name)(*sides, problems.ids(), problems.mask("most"))[0]
  np.testing.assert_allclose(eager, jitted, rtol=1e-4)


@pytest.mark.slow
@problems.every_loss
def test_numpy_float64_and_a_list_as_mask_are_accepted(name):
  """Warnings are errors here, so this also proves that none is given."""
  student, teacher = problems.example(name)
  expected = ROWS[name].call(
    student, teacher, problems.ids(), mask=problems.mask("most")
  )
  sides = student.astype(np.float64), teacher.astype(np.float64)
  value = ROWS[name].call(*sides, problems.ids(), mask=problems.mask("most").tolist())
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@problems.every_loss
def test_permutation_of_rows_permutes_the_gradients(name, x64):
  if "permutation" in ROWS[name].exempt:
    pytest.skip(ROWS[name].exempt["permutation"])
  problem = (
    *problems.example(name, dtype=np.float64),
    problems.ids(),
    problems.mask("most"),
  )
  order = np.random.default_rng(3).permutation(BATCH)
  value, gradients = problems.plain(name)(*problem)
  permuted = problems.plain(name)(*(rows[order] for rows in problem))
  problems.assert_close(permuted, (value, [np.asarray(g)[order] for g in gradients]))


@pytest.mark.slow
@problems.every_loss
def test_padding_changes_nothing_whatever_it_holds(name, x64):
  student, teacher = problems.example(name, dtype=np.float64)
  mask = problems.mask("most")
  short = jax.jit(
    lambda s, t: problems.value_and_grad(name)(s, t, problems.ids(11), None),
  )(student[:11], teacher[:11])
  for filling in (0.0, 3.0, np.inf, np.nan):
    student[11:], teacher[11:] = filling, -filling
    value, gradients = problems.plain(name)(student, teacher, problems.ids(), mask)
    problems.assert_close((value, [g[:11] for g in gradients]), short)
    assert all(not np.asarray(g[11:]).any() for g in gradients), filling


@pytest.mark.slow
@problems.with_blocks
def test_blocks_change_nothing(name, x64):
  problem = (
    *problems.example(name, dtype=np.float64),
    problems.ids(),
    problems.mask("most"),
  )
  problems.assert_close(
    problems.blocked(name)(*problem), problems.plain(name)(*problem)
  )


def _number_options(name):
  """Options of a loss that are numbers which need not be whole, with their defaults."""
  parameters = inspect.signature(getattr(losses, name.split(",")[0])).parameters
  return {
    option: parameter.default
    for option, parameter in parameters.items()
    if isinstance(parameter.default, float)
  }


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "option"),
  [
    (name, option)
    for name in ROWS
    if "authors" not in name
    for option in _number_options(name)
  ],
)
def test_options_may_be_traced_and_differentiated(name, option, x64):
  """Options in a schedule under `scan`; derivatives against differences in float64."""
  problem = *problems.example(name, dtype=np.float64), problems.ids()
  # Differences need a step, and some options are 0 by default.
  default = _number_options(name)[option] or 0.1
  if "traced" in ROWS[name].exempt:
    pytest.skip(ROWS[name].exempt["traced"])

  def loss(value, **options):
    return ROWS[name].call(
      *problem, mask=problems.mask("most"), **{option: value}, **options
    )

  def schedule(values, options):
    def step(carry, value):
      results = [
        jax.value_and_grad(functools.partial(loss, **o))(value) for o in options
      ]
      return carry, results

    return jax.lax.scan(step, 0, values)[1]

  step = 1e-5 * default
  options = [{}, {"block_size": 5}][: 1 + ROWS[name].blocks]
  points = jnp.array([default - step, default, default + step])
  expected = jax.jit(functools.partial(loss, default))()
  for values, slopes in jax.jit(functools.partial(schedule, options=options))(points):
    np.testing.assert_allclose(values[1], expected, rtol=1e-9)
    difference = (values[2] - values[0]) / (2 * step)
    np.testing.assert_allclose(slopes[1], difference, rtol=1e-4, atol=1e-7)
    # Some maps have a vector of ones for every exponent: then nothing changes.
    assert slopes[1] != 0 or option in ROWS[name].exempt


POSITIVE = {"bandwidth", "epsilon", "exponent", "order", "power", "temperature"}


@problems.every_loss
def test_bad_input_is_refused(name):
  row = ROWS[name]
  student, teacher = problems.example(name)
  ids = problems.ids()
  named = "student|teacher|logits|labels|tap"

  def refused(error, match, *arguments, **options):
    with pytest.raises(error, match=match) as info:
      jax.eval_shape(lambda *x: row.call(*x, **options), *arguments)
    assert re.search("expected .*(got|has) ", str(info.value)), info.value

  if "both sides" not in row.exempt:
    refused(ValueError, named, student, teacher[1:], ids)
    refused(TypeError, named, student, teacher.astype(int), ids)
  refused(ValueError, named, student.reshape(-1), teacher.reshape(-1), ids)
  refused(ValueError, named, student[:0], teacher[:0], ids[:0])
  refused(TypeError, named, student.astype(int), teacher, ids)
  refused(ValueError, "mask", student, teacher, ids, mask=np.ones(3, bool))
  if row.blocks:
    refused(ValueError, "block_size", student, teacher, ids, block_size=0)
  function = getattr(losses, name.split(",")[0])
  options = set(inspect.signature(function).parameters)
  for option in options & POSITIVE:
    refused(ValueError, option, student, teacher, ids, **{option: -1})
    if option != "order":
      refused(ValueError, option, student, teacher, ids, **{option: np.inf})
      refused(ValueError, option, student, teacher, ids, **{option: np.nan})
  if "reduction" in options:
    refused(ValueError, "reduction", student, teacher, ids, reduction="sum")


@problems.every_loss
def test_unknown_axis_is_refused(name):
  student, teacher = problems.example(name)
  with pytest.raises(ValueError, match=r"axis_name.*nowhere"):
    jax.eval_shape(
      lambda *x: ROWS[name].call(*x, axis_name="nowhere"),
      student,
      teacher,
      problems.ids(),
    )


@pytest.mark.parametrize("name", sorted({name.split(",")[0] for name in ROWS}))
def test_options_are_keywords_and_documented(name):
  function = getattr(losses, name)
  assert inspect.isfunction(function)
  assert not hasattr(function, "lower")  # the caller jits
  parameters = inspect.signature(function).parameters.values()
  positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
  assert positional in (
    ["student", "teacher"],
    ["logits", "labels"],
    ["teacher"],
  )
  assert {"mask", "axis_name"} <= {p.name for p in parameters}
  documentation = inspect.getdoc(function) or ""
  for part in ("Args:", "Raises:", "Example:", ">>>"):
    assert part in documentation, part
  for parameter in parameters:
    assert f"{parameter.name}:" in documentation, parameter.name
