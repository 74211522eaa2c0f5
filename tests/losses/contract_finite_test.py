"""Contract of every public loss: values stay finite and lose only their rounding.

The rows are those of `contract_rows.ROWS`.
"""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from tests.losses import contract_problems as problems
from tests.losses.contract_rows import BATCH
from tests.losses.contract_rows import ROWS


def _assert_finite(results, message):
  for leaf in jax.tree.leaves(results):
    finite = np.isfinite(np.asarray(leaf, np.float32))
    rows = finite.reshape(finite.shape[0], -1).all(1)
    assert rows.all(), (message, "problems", np.flatnonzero(~rows))


EDITS = ("none", "zero row", "zero", "duplicates", "alike", "antipodal", "one-hot")


LIKE_STUDENT = "like the student"


def _edited(rows, edit, scale, mean, student=None):
  rows = rows.copy()
  if edit == "zero row":
    rows[1] = 0
  elif edit == "zero":
    rows[:] = 0
  elif edit == "duplicates":
    rows[2:6] = rows[2]
  elif edit == "alike":
    rows[:] = rows[0]
  elif edit == "antipodal":
    rows[1] = -rows[0]
  elif edit == "one-hot":
    rows[:] = np.eye(rows[0].size)[0].reshape(rows[0].shape)
  elif edit == LIKE_STUDENT:  # where it is wider, zeros: the same distances and angles
    common = tuple(map(slice, np.minimum(rows.shape, student.shape)))
    rows[:] = 0
    rows[common] = student[common]
  largest = float(np.finfo(np.float16).max) / 2
  return np.clip(scale * rows + mean, -largest, largest)


def _degenerate_cases():
  cases = []
  for edit in EDITS:
    for scale, mean in ((1.0, 0.0), (1e4, 0.0), (1e-4, 0.0), (1.0, 1e3)):
      cases.append(((edit, scale, mean), ("none", 1.0, 0.0), "all"))
      cases.append((("none", 1.0, 0.0), (edit, scale, mean), "all"))
      cases.append(((edit, scale, mean), (edit, scale, mean), "most"))
  for edit in EDITS:
    cases.append(((edit, 1.0, 0.0), (LIKE_STUDENT, 1.0, 0.0), "all"))
  for kind in ("one", "none"):
    for mean in (0.0, 1e3):
      cases.append((("none", 1.0, mean), ("none", 1.0, 0.0), kind))
  return cases + cases[: -len(cases) % problems.CASES]


def _assert_never_nan(name, cases, seed, dtype=jnp.float32):
  student, teacher = problems.example(name, seed)
  ids = problems.ids()
  for start in range(0, len(cases), problems.CASES):
    group = cases[start : start + problems.CASES]
    students = [_edited(student, *case[0]) for case in group]
    teachers = [
      _edited(teacher, *case[1], rows)
      for case, rows in zip(group, students, strict=True)
    ]
    sides = [jnp.asarray(np.stack(side)).astype(dtype) for side in (students, teachers)]
    masks = np.stack([problems.mask(case[2]) for case in group])
    many = problems.many_recomputed if dtype == jnp.float32 else problems.many
    results = many(name)(*sides, ids, masks)
    _assert_finite(results, (str(dtype), group))
    assert all(g.dtype == dtype for g in results[1])


@problems.every_loss
@pytest.mark.parametrize(
  "dtype",
  ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)],
)
def test_never_nan_at_degenerate_inputs(name, dtype):
  if dtype in ROWS[name].exempt:
    pytest.skip(ROWS[name].exempt[dtype])
  _assert_never_nan(name, _degenerate_cases(), seed=1, dtype=jnp.dtype(dtype))


@pytest.mark.slow
@problems.every_loss
def test_never_nan_with_a_batch_of_one_row(name):
  if "one row" in ROWS[name].exempt:
    pytest.skip(ROWS[name].exempt["one row"])
  for scale in (1, 0, 1e4):
    sides = [np.float32(scale) * rows for rows in problems.example(name, batch=1)]
    results = problems.plain(name)(*sides, problems.ids(1), np.ones(1, bool))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results)), scale


SCALE_AND_MEAN = (
  strategies.sampled_from((1e-4, 1e-2, 1.0, 1e2, 1e4)),
  strategies.sampled_from((0.0, 0.0, 1.0, -1e3)),
)
PROBLEM = strategies.tuples(
  strategies.tuples(strategies.sampled_from(EDITS), *SCALE_AND_MEAN),
  strategies.tuples(strategies.sampled_from((*EDITS, LIKE_STUDENT)), *SCALE_AND_MEAN),
  strategies.sampled_from(("all", "most", "one", "none")),
)


@pytest.mark.slow
@problems.every_loss
def test_never_nan_property(name):
  """16 problems an example: 20 examples are 320 cases a loss, 5000 in all."""

  @hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
  @hypothesis.given(
    cases=strategies.lists(PROBLEM, min_size=problems.CASES, max_size=problems.CASES),
    seed=strategies.integers(0, 2**32 - 1),
  )
  def check(cases, seed):
    _assert_never_nan(name, cases, seed)

  check()


def _assert_problems_equal(name, sides, mask, results, tolerance):
  """Each of many problems against `_plain` in float64."""
  with jax.enable_x64(True):
    for index, problem in enumerate(zip(*sides, strict=True)):
      exact = [np.asarray(rows, np.float64) for rows in problem]
      expected = problems.plain(name)(*exact, problems.ids(), mask)
      problems.assert_close(
        jax.tree.map(lambda x, i=index: x[i], results), expected, tolerance
      )


@pytest.mark.slow
@problems.every_loss
def test_vmap_and_checkpoint_change_nothing(name):
  examples = [problems.example(name, seed) for seed in range(problems.CASES)]
  sides = [np.stack(rows) for rows in zip(*examples, strict=True)]
  mask = problems.mask("most")
  results = problems.many_recomputed(name)(
    *sides, problems.ids(), np.stack([mask] * problems.CASES)
  )
  _assert_problems_equal(name, sides, mask, results, 1e-4)


@problems.every_loss
def test_half_precision_inputs_lose_only_their_rounding(name):
  """Loss within 1e-3 of float64 on the same rounded inputs, gradient cosine 0.9999."""
  examples = [problems.example(name, seed) for seed in range(problems.CASES)]
  sides = [
    jnp.asarray(np.stack(rows)).astype(jnp.bfloat16)
    for rows in zip(*examples, strict=True)
  ]
  mask = np.ones(BATCH, bool)
  results = problems.many(name)(
    *sides, problems.ids(), np.stack([mask] * problems.CASES)
  )
  # A gradient comes back in bfloat16, the sum of several of 8 binary digits each.
  _assert_problems_equal(name, sides, mask, results, 2**-6)


@problems.every_loss
def test_what_is_not_finite_makes_the_loss_nan_in_real_rows_only(name):
  cases = problems.not_finite(name)
  sides, masks = [[], []], []
  for row, kind in ((3, "most"), (12, "most"), (0, "one")):
    for side, value in cases if row else cases[:: len(cases) - 1]:
      example = problems.example(name)
      example[side].reshape(BATCH, -1)[row, 1] = value
      for rows, each in zip(sides, example, strict=True):
        rows.append(each)
      masks.append(problems.mask(kind))
  for rows, each in zip(sides, problems.example(name), strict=True):
    rows.extend([each] * (problems.CASES - len(rows)))
  masks.extend([problems.mask("most")] * (problems.CASES - len(masks)))
  values, gradients = problems.many_recomputed(name)(
    *map(np.stack, sides), problems.ids(), np.stack(masks)
  )
  count = len(cases)
  assert np.isnan(values[:count]).all(), [*zip(cases, values, strict=False)]
  assert np.isnan(values[2 * count : 2 * count + 2]).all()
  clean = jax.tree.map(lambda x: x[-1], (values, gradients))
  for index in range(count, 2 * count):
    padded = jax.tree.map(lambda x, i=index: x[i], (values, gradients))
    problems.assert_close(padded, clean)


@pytest.mark.slow
@problems.with_blocks
def test_what_is_not_finite_is_noticed_in_blocks(name, x64):
  for side, value in problems.not_finite(name):
    example = problems.example(name, dtype=np.float64)
    example[side].reshape(BATCH, -1)[10, 1] = value
    assert np.isnan(
      problems.blocked(name)(*example, problems.ids(), problems.mask("most"))[0]
    ), (side, value)
