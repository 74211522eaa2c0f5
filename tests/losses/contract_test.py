"""Contract of every public loss: each test runs for each row of the table.

A new loss is one new row of `contract_rows.ROWS`: how to call it and the shapes of an
example. Each row runs through every test below; `exempt` names a test that cannot
apply, and why. Equalities are checked in float64, where 1e-6 is far above rounding.
"""

import functools
import inspect
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from flowkd_jax import losses
from tests.losses.contract_rows import BATCH
from tests.losses.contract_rows import NOT_LOSSES
from tests.losses.contract_rows import ROWS

CASES = 16
# Losses that read -inf as probability 0.
LOGITS = (
  "cross_entropy",
  "decoupled_kd",
  "dist",
  "jensen_shannon",
  "knowledge_distillation",
  "multi_level_distillation",
  "reverse_kl",
  "skew_kl",
  "top_k_distillation",
  "transformed_teacher_matching",
)


# Logits, maps, vectors, pairs of rows, taps and tables, for what all have in common.
ONE_OF_A_KIND = (
  "knowledge_distillation",
  "attention_transfer",
  "hint",
  "similarity_preserving",
  "information_flow",
  "crd_bank",
)

every_loss = pytest.mark.parametrize("name", ROWS)


def test_every_public_loss_has_a_row():
  tested = {name.split(",")[0] for name in ROWS}
  assert tested | set(NOT_LOSSES) == set(losses.__all__)


def _example(name, seed=0, batch=BATCH, dtype=np.float32):
  rng = np.random.default_rng(seed)
  shapes = ROWS[name].student, ROWS[name].teacher
  return [rng.standard_normal((batch, *shape)).astype(dtype) for shape in shapes]


def _ids(batch=BATCH):
  return np.arange(batch, dtype=np.int32)


def _value_and_grad(name, **fixed):
  call = ROWS[name].call

  def loss(student, teacher, ids, mask):
    return call(student, teacher, ids, mask=mask, **fixed)

  return jax.value_and_grad(loss, argnums=(0, 1))


@functools.cache
def _plain(name):
  """Value and gradients of one problem; compiled once a dtype."""
  return jax.jit(_value_and_grad(name))


@functools.cache
def _many(name):
  """The same of many problems, under `vmap`."""
  return jax.jit(jax.vmap(_value_and_grad(name), in_axes=(0, 0, None, 0)))


@functools.cache
def _many_recomputed(name):
  """The same under `checkpoint` too."""
  call = ROWS[name].call

  @jax.checkpoint
  def loss(student, teacher, ids, mask):
    return call(student, teacher, ids, mask=mask)

  function = jax.value_and_grad(loss, argnums=(0, 1))
  return jax.jit(jax.vmap(function, in_axes=(0, 0, None, 0)))


def _assert_close(actual, expected, tolerance=1e-6):
  """Value to 1e-3 or better; gradients relative to their largest entry, and cosine."""
  value, *gradients = (np.asarray(x, np.float64) for x in jax.tree.leaves(actual))
  reference, *references = (
    np.asarray(x, np.float64) for x in jax.tree.leaves(expected)
  )
  np.testing.assert_allclose(value, reference, rtol=min(tolerance, 1e-3))
  for one, other in zip(gradients, references, strict=True):
    size = abs(other).max()
    if size == 0:
      assert not one.any()
      continue
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * size)
    one, other = (x.ravel() for x in (one, other))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine >= 0.9999


def _assert_finite(results, message):
  for leaf in jax.tree.leaves(results):
    finite = np.isfinite(np.asarray(leaf, np.float32))
    rows = finite.reshape(finite.shape[0], -1).all(1)
    assert rows.all(), (message, "problems", np.flatnonzero(~rows))


@pytest.mark.slow
@every_loss
def test_value_and_gradient_take_part_of_both_sides(name, x64):
  student, teacher = _example(name, dtype=np.float64)
  value, gradients = _plain(name)(student, teacher, _ids(), _mask("most"))
  assert value.shape == ()
  assert value > 0
  assert np.abs(gradients[0]).max() > 0
  if "both sides" not in ROWS[name].exempt:
    assert np.abs(gradients[1]).max() > 0


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


def _mask(kind):
  counts = {"all": BATCH, "most": 11, "one": 1, "none": 0}
  return np.arange(BATCH) < counts[kind]


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
  return cases + cases[: -len(cases) % CASES]


def _assert_never_nan(name, cases, seed, dtype=jnp.float32):
  student, teacher = _example(name, seed)
  ids = _ids()
  for start in range(0, len(cases), CASES):
    group = cases[start : start + CASES]
    students = [_edited(student, *case[0]) for case in group]
    teachers = [
      _edited(teacher, *case[1], rows)
      for case, rows in zip(group, students, strict=True)
    ]
    sides = [jnp.asarray(np.stack(side)).astype(dtype) for side in (students, teachers)]
    masks = np.stack([_mask(case[2]) for case in group])
    many = _many_recomputed if dtype == jnp.float32 else _many
    results = many(name)(*sides, ids, masks)
    _assert_finite(results, (str(dtype), group))
    assert all(g.dtype == dtype for g in results[1])


@every_loss
@pytest.mark.parametrize(
  "dtype",
  ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)],
)
def test_never_nan_at_degenerate_inputs(name, dtype):
  if dtype in ROWS[name].exempt:
    pytest.skip(ROWS[name].exempt[dtype])
  _assert_never_nan(name, _degenerate_cases(), seed=1, dtype=jnp.dtype(dtype))


@pytest.mark.slow
@every_loss
def test_never_nan_with_a_batch_of_one_row(name):
  if "one row" in ROWS[name].exempt:
    pytest.skip(ROWS[name].exempt["one row"])
  for scale in (1, 0, 1e4):
    sides = [np.float32(scale) * rows for rows in _example(name, batch=1)]
    results = _plain(name)(*sides, _ids(1), np.ones(1, bool))
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
@every_loss
def test_never_nan_property(name):
  """16 problems an example: 20 examples are 320 cases a loss, 5000 in all."""

  @hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
  @hypothesis.given(
    cases=strategies.lists(PROBLEM, min_size=CASES, max_size=CASES),
    seed=strategies.integers(0, 2**32 - 1),
  )
  def check(cases, seed):
    _assert_never_nan(name, cases, seed)

  check()


@pytest.mark.slow
@every_loss
def test_numpy_without_jit_equals_jit(name):
  student, teacher = _example(name)
  mask = _mask("most").astype(np.int32)
  eager = ROWS[name].call(student, teacher, _ids(), mask=mask)
  with jax.enable_x64(True):
    sides = student.astype(np.float64), teacher.astype(np.float64)
    jitted = _plain(name)(*sides, _ids(), _mask("most"))[0]
  np.testing.assert_allclose(eager, jitted, rtol=1e-4)


@pytest.mark.slow
@every_loss
def test_numpy_float64_and_a_list_as_mask_are_accepted(name):
  """Warnings are errors here, so this also proves that none is given."""
  student, teacher = _example(name)
  expected = ROWS[name].call(student, teacher, _ids(), mask=_mask("most"))
  sides = student.astype(np.float64), teacher.astype(np.float64)
  value = ROWS[name].call(*sides, _ids(), mask=_mask("most").tolist())
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def _assert_problems_equal(name, sides, mask, results, tolerance):
  """Each of many problems against `_plain` in float64."""
  with jax.enable_x64(True):
    for index, problem in enumerate(zip(*sides, strict=True)):
      exact = [np.asarray(rows, np.float64) for rows in problem]
      expected = _plain(name)(*exact, _ids(), mask)
      _assert_close(jax.tree.map(lambda x, i=index: x[i], results), expected, tolerance)


@pytest.mark.slow
@every_loss
def test_vmap_and_checkpoint_change_nothing(name):
  problems = [_example(name, seed) for seed in range(CASES)]
  sides = [np.stack(rows) for rows in zip(*problems, strict=True)]
  mask = _mask("most")
  results = _many_recomputed(name)(*sides, _ids(), np.stack([mask] * CASES))
  _assert_problems_equal(name, sides, mask, results, 1e-4)


@every_loss
def test_half_precision_inputs_lose_only_their_rounding(name):
  """Within 1e-3 of float64 on the same rounded inputs; cosine 0.9999 of gradients."""
  problems = [_example(name, seed) for seed in range(CASES)]
  sides = [
    jnp.asarray(np.stack(rows)).astype(jnp.bfloat16)
    for rows in zip(*problems, strict=True)
  ]
  mask = np.ones(BATCH, bool)
  results = _many(name)(*sides, _ids(), np.stack([mask] * CASES))
  # A gradient comes back in bfloat16, the sum of several of 8 binary digits each.
  _assert_problems_equal(name, sides, mask, results, 2**-6)


@every_loss
def test_permutation_of_rows_permutes_the_gradients(name, x64):
  if "permutation" in ROWS[name].exempt:
    pytest.skip(ROWS[name].exempt["permutation"])
  problem = *_example(name, dtype=np.float64), _ids(), _mask("most")
  order = np.random.default_rng(3).permutation(BATCH)
  value, gradients = _plain(name)(*problem)
  permuted = _plain(name)(*(rows[order] for rows in problem))
  _assert_close(permuted, (value, [np.asarray(g)[order] for g in gradients]))


@pytest.mark.slow
@every_loss
def test_padding_changes_nothing_whatever_it_holds(name, x64):
  student, teacher = _example(name, dtype=np.float64)
  mask = _mask("most")
  short = jax.jit(
    lambda s, t: _value_and_grad(name)(s, t, _ids(11), None),
  )(student[:11], teacher[:11])
  for filling in (0.0, 3.0, np.inf, np.nan):
    student[11:], teacher[11:] = filling, -filling
    value, gradients = _plain(name)(student, teacher, _ids(), mask)
    _assert_close((value, [g[:11] for g in gradients]), short)
    assert all(not np.asarray(g[11:]).any() for g in gradients), filling


with_blocks = pytest.mark.parametrize(
  "name", [name for name in ROWS if ROWS[name].blocks]
)


@functools.cache
def _blocked(name):
  return jax.jit(_value_and_grad(name, block_size=5))


@pytest.mark.slow
@with_blocks
def test_blocks_change_nothing(name, x64):
  problem = *_example(name, dtype=np.float64), _ids(), _mask("most")
  _assert_close(_blocked(name)(*problem), _plain(name)(*problem))


def _not_finite(name):
  """Pairs of a side and a value that its features may not hold."""
  values = (
    (np.nan, np.inf) if name.split(",")[0] in LOGITS else (np.nan, np.inf, -np.inf)
  )
  takes_teacher = "both sides" not in ROWS[name].exempt or ROWS[name].teacher_constant
  return [(side, value) for side in range(1 + takes_teacher) for value in values]


@every_loss
def test_what_is_not_finite_makes_the_loss_nan_in_real_rows_only(name):
  cases = _not_finite(name)
  sides, masks = [[], []], []
  for row, kind in ((3, "most"), (12, "most"), (0, "one")):
    for side, value in cases if row else cases[:: len(cases) - 1]:
      example = _example(name)
      example[side].reshape(BATCH, -1)[row, 1] = value
      for rows, each in zip(sides, example, strict=True):
        rows.append(each)
      masks.append(_mask(kind))
  for rows, each in zip(sides, _example(name), strict=True):
    rows.extend([each] * (CASES - len(rows)))
  masks.extend([_mask("most")] * (CASES - len(masks)))
  values, gradients = _many_recomputed(name)(
    *map(np.stack, sides), _ids(), np.stack(masks)
  )
  count = len(cases)
  assert np.isnan(values[:count]).all(), [*zip(cases, values, strict=False)]
  assert np.isnan(values[2 * count : 2 * count + 2]).all()
  clean = jax.tree.map(lambda x: x[-1], (values, gradients))
  for index in range(count, 2 * count):
    padded = jax.tree.map(lambda x, i=index: x[i], (values, gradients))
    _assert_close(padded, clean)


@pytest.mark.slow
@with_blocks
def test_what_is_not_finite_is_noticed_in_blocks(name, x64):
  for side, value in _not_finite(name):
    example = _example(name, dtype=np.float64)
    example[side].reshape(BATCH, -1)[10, 1] = value
    assert np.isnan(_blocked(name)(*example, _ids(), _mask("most"))[0]), (side, value)


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
  """In a schedule under `scan`; derivatives against differences in float64."""
  problem = *_example(name, dtype=np.float64), _ids()
  # Differences need a step, and some options are 0 by default.
  default = _number_options(name)[option] or 0.1
  if "traced" in ROWS[name].exempt:
    pytest.skip(ROWS[name].exempt["traced"])

  def loss(value, **options):
    return ROWS[name].call(*problem, mask=_mask("most"), **{option: value}, **options)

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


def _step(name, **options):
  """Value and gradient in parameters that all devices share, averaged over them."""
  call = ROWS[name].call

  def loss(parameters, sides, ids, mask):
    student, teacher = (
      rows * parameter[None] for rows, parameter in zip(sides, parameters, strict=True)
    )
    return call(student, teacher, ids, mask=mask, axis_name="batch", **options)

  def step(*arguments):
    value, gradients = jax.value_and_grad(loss)(*arguments)
    return value, jax.lax.pmean(gradients, "batch")

  return step


@pytest.mark.eight_devices
@pytest.mark.slow
@every_loss
def test_global_batch_on_eight_devices(name, x64):
  sides = _example(name, dtype=np.float64)
  parameters = [1 + 0.1 * rows[0].astype(np.float64) for rows in _example(name, 3)]
  data = sides, _ids(), _mask("most")
  scaled = [rows * each for rows, each in zip(sides, parameters, strict=True)]
  plain = _plain(name)(*scaled, *data[1:])
  chain = [(g * rows).sum(0) for g, rows in zip(plain[1], sides, strict=True)]
  expected = plain[0], chain

  spread = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), data)
  mapped = jax.pmap(_step(name), axis_name="batch", in_axes=(None, 0, 0, 0))
  results = mapped(parameters, *spread)
  for device in range(8):
    _assert_close(jax.tree.map(lambda x, d=device: x[d], results), expected)
  broken = [rows.copy() for rows in spread[0]]
  broken[0].reshape(8, 2, -1)[5, 0, 1] = np.nan  # the last row that is no padding
  assert np.isnan(mapped(parameters, broken, *spread[1:])[0]).all()

  mesh = jax.make_mesh((8,), ("batch",))
  rows, whole = PartitionSpec("batch"), PartitionSpec()
  if "replication" not in ROWS[name].exempt:  # pmap is shard_map without this check
    # Two rows a device: also in two blocks. In one program, which is compiled faster.
    options = [{}, {"block_size": 1}][: 1 + ROWS[name].blocks]

    def steps(*arguments):
      return [_step(name, **each)(*arguments) for each in options]

    sharded = jax.shard_map(
      steps,
      mesh=mesh,
      in_specs=(whole, rows, rows, rows),
      out_specs=whole,
      check_vma=True,
    )
    placed = (
      jax.device_put(parameters, NamedSharding(mesh, whole)),
      *jax.device_put(data, NamedSharding(mesh, rows)),
    )
    for results in jax.jit(sharded)(*placed):
      _assert_close(results, expected)

  automatic = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
  placed = jax.device_put((*scaled, *data[1:]), NamedSharding(automatic, rows))
  _assert_close(_plain(name)(*placed), plain)


@pytest.mark.eight_devices
@pytest.mark.slow
@every_loss
def test_explicit_meshes_change_nothing(name, x64):
  """Rows over one axis, the features of maps and vectors over the other if it fits."""
  mesh = jax.make_mesh((4, 2), ("batch", "model"))
  sides, ids, mask = _example(name, dtype=np.float64), _ids(), _mask("most")
  expected = _plain(name)(*sides, ids, mask)
  specs = [
    PartitionSpec("batch", *(None,) * (side.ndim - 2), None if odd else "model")
    for side in sides
    for odd in [side.shape[-1] % 2]
  ]
  placed = [
    jax.device_put(each, NamedSharding(mesh, spec))
    for each, spec in zip(
      (*sides, ids, mask), (*specs, *[PartitionSpec("batch")] * 2), strict=True
    )
  ]
  result = jax.jit(_value_and_grad(name))(*placed)
  _assert_close(result, expected)
  for gradient, spec in zip(result[1], specs, strict=True):
    assert gradient.sharding.spec == spec
  if name in ONE_OF_A_KIND:  # every operation alone is compiled again on a mesh
    eager = ROWS[name].call(*placed[:3], mask=placed[3])
    np.testing.assert_allclose(eager, expected[0], rtol=1e-6)


@every_loss
def test_lowers_for_tpu_and_cuda(name):
  problem = *_example(name), _ids(), _mask("most")
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), problem)
  exported = jax.export.export(_plain(name), platforms=["tpu", "cuda"])(*shapes)
  assert exported.platforms == ("tpu", "cuda")


POSITIVE = {"bandwidth", "epsilon", "exponent", "order", "power", "temperature"}


@every_loss
def test_bad_input_is_refused(name):
  row = ROWS[name]
  student, teacher = _example(name)
  ids = _ids()
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


@every_loss
def test_unknown_axis_is_refused(name):
  student, teacher = _example(name)
  with pytest.raises(ValueError, match=r"axis_name.*nowhere"):
    ROWS[name].call(student, teacher, _ids(), axis_name="nowhere")


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
