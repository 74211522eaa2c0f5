"""Losses on maps: the authors' values, invariances, pooling, degenerate maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files


def _two_maps(student, teacher, **options):
  """FSP between the first channel and the two after it."""
  pairs = [(x[..., :1], x[..., 1:3]) for x in (student, teacher)]
  return losses.fsp(*pairs, **options)


def _learnt_factors(student, teacher, **options):
  params = losses.factor_transfer_init(
    jax.random.key(0), student.shape, teacher.shape, rate=0.7
  )
  return losses.factor_transfer(student, teacher, params=params, **options)


LOSSES = {
  "attention_transfer": losses.attention_transfer,
  "attention_transfer, p = 1": functools.partial(
    losses.attention_transfer, exponent=1.0
  ),
  "nst, polynomial": losses.nst,
  "nst, gaussian": functools.partial(losses.nst, kernel="gaussian"),
  "nst, linear": functools.partial(losses.nst, kernel="linear"),
  "fsp": _two_maps,
  "factor_transfer": losses.factor_transfer,
  "factor_transfer, q = 2": functools.partial(losses.factor_transfer, power=2.0),
  "factor_transfer, learnt": _learnt_factors,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def _maps(rows=6, seed=0):
  rng = np.random.default_rng(seed)
  make = lambda *shape: jnp.asarray(rng.standard_normal((rows, *shape)), jnp.float32)
  return make(4, 4, 3), make(6, 5, 5)


def _rotation(width):
  random = np.random.default_rng(2).standard_normal((width, width))
  return jnp.asarray(np.linalg.qr(random)[0], jnp.float32)


_AUTHORS = {
  "at": functools.partial(losses.attention_transfer, reduction="elements"),
  "ft": functools.partial(losses.factor_transfer, reduction="elements"),
  "nst": losses.nst,
}


@jax.jit
def _authors_values(student, teacher):
  return {
    name: jax.value_and_grad(loss)(student, teacher) for name, loss in _AUTHORS.items()
  }


@golden_files.every_file
@pytest.mark.parametrize("index", [0, 1])
def test_authors_values_and_gradients_are_reproduced(path, index, x64):
  golden = np.load(path)
  sides = [golden_files.maps(golden, side, index) for side in ("student", "teacher")]
  for name, results in _authors_values(*sides).items():
    golden_files.assert_reproduced(golden, f"{name}__map{index}", *results)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_nst_equals_its_definition(kernel):
  student, teacher = _maps()
  teacher = teacher[:, :4, :4]
  distances = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1)
  total = 0.0
  for row in range(6):
    channels = [
      np.asarray(maps[row], np.float64).reshape(16, -1).T for maps in (student, teacher)
    ]
    s, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in channels)
    if kernel == "linear":
      k = lambda a, b: a @ b.T
    else:
      variance = distances(s, t).mean()
      k = lambda a, b, variance=variance: np.exp(-distances(a, b) / (2 * variance))
    total += k(s, s).mean() + k(t, t).mean() - 2 * k(s, t).mean()
  actual = jax.jit(functools.partial(losses.nst, kernel=kernel))(student, teacher)
  np.testing.assert_allclose(actual, total / 6, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["rows", "elements"])
def test_fsp_equals_its_definition(reduction):
  rng = np.random.default_rng(0)
  make = lambda *shape: rng.standard_normal((3, *shape))
  student = make(4, 4, 2), make(4, 4, 5)
  teacher = make(6, 6, 2), make(3, 3, 5)
  pooled = teacher[0].reshape(3, 3, 2, 3, 2, 2).mean((2, 4)), teacher[1]
  flows = [
    np.einsum("bhwi,bhwj->bij", *pair) / pair[0][0, :, :, 0].size
    for pair in (student, pooled)
  ]
  expected = ((flows[0] - flows[1]) ** 2).sum((1, 2)).mean()
  expected /= 10 if reduction == "elements" else 1
  as_float32 = lambda pair: tuple(jnp.asarray(x, jnp.float32) for x in pair)
  loss = jax.jit(functools.partial(losses.fsp, reduction=reduction))
  actual = loss(as_float32(student), as_float32(teacher))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.attention_transfer, losses.factor_transfer])
def test_energies_are_invariant_to_scale_rotation_and_permutation(loss):
  student, teacher = _maps()
  loss = jax.jit(loss)
  expected = loss(student, teacher)
  scales = jnp.logspace(-6, 6, 6)[:, None, None, None]
  np.testing.assert_allclose(loss(student * scales, teacher), expected, rtol=1e-5)
  np.testing.assert_allclose(loss(student @ _rotation(3), teacher), expected, rtol=1e-5)
  np.testing.assert_allclose(loss(student, teacher[..., ::-1]), expected, rtol=1e-5)
  small = teacher[:, :4, :4]
  np.testing.assert_allclose(
    loss(student[:, ::-1], small[:, ::-1]), loss(student, small), rtol=1e-5
  )


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["polynomial", "gaussian", "linear"])
def test_nst_is_invariant_to_scale_and_order_of_channels(kernel):
  student, teacher = _maps()
  loss = jax.jit(functools.partial(losses.nst, kernel=kernel))
  expected = loss(student, teacher)
  scales = jnp.array([1e-4, 1, 1e4])[None, None, None]
  np.testing.assert_allclose(loss(student * scales, teacher), expected, rtol=1e-4)
  np.testing.assert_allclose(loss(student[..., ::-1], teacher), expected, rtol=1e-4)
  small = teacher[:, :4, :4]
  turn = lambda x: jnp.einsum(
    "pq,bqc->bpc", _rotation(16), x.reshape(6, 16, -1), precision="highest"
  ).reshape(x.shape)
  np.testing.assert_allclose(
    loss(turn(student), turn(small)), loss(student, small), rtol=1e-4
  )
  if kernel == "polynomial":
    np.testing.assert_allclose(loss(-student, teacher), expected, rtol=1e-4)


@pytest.mark.slow
@every_loss
def test_loss_does_not_depend_on_the_batch_size(loss):
  sides = _maps()
  loss = jax.jit(loss)
  twice = [jnp.concatenate([side, side]) for side in sides]
  np.testing.assert_allclose(loss(*twice), loss(*sides), rtol=1e-5)


@pytest.mark.parametrize(
  "loss", [losses.attention_transfer, losses.factor_transfer, losses.nst]
)
def test_losses_of_normalised_maps_do_not_depend_on_the_width(loss):
  student, teacher = _maps()
  loss = jax.jit(loss)
  wide = jnp.tile(student, 3), jnp.tile(teacher, 2)
  np.testing.assert_allclose(loss(*wide), loss(student, teacher), rtol=1e-5)


@pytest.mark.slow
def test_fsp_grows_with_the_channel_pairs_and_the_fourth_power_of_scale():
  student, teacher = _maps()
  pair, other = (student, student**2), (teacher[..., :3], teacher[..., 2:])
  widen = lambda maps: tuple(jnp.tile(x, 3) for x in maps)
  scale = lambda maps: tuple(2 * x for x in maps)
  for reduction, factor in (("rows", 9), ("elements", 1)):
    loss = jax.jit(functools.partial(losses.fsp, reduction=reduction))
    narrow = loss(pair, other)
    wide = loss(widen(pair), widen(other))
    np.testing.assert_allclose(wide, factor * narrow, rtol=1e-5)
    np.testing.assert_allclose(loss(scale(pair), scale(other)), 16 * narrow, rtol=1e-5)


@pytest.mark.slow
def test_fsp_is_invariant_to_a_permutation_of_positions():
  student, teacher = _maps()
  pair, other = (student, student**2), (teacher[..., :3], teacher[..., 2:])
  flipped = tuple(x[:, ::-1] for x in pair)
  np.testing.assert_allclose(
    losses.fsp(flipped, other), losses.fsp(pair, other), rtol=1e-5
  )


def _degenerate_maps():
  student, _ = _maps()
  zero_row = student.at[2].set(0).at[3, ..., 1].set(0)
  return {
    "zero row": zero_row,
    "all zero": 0 * student,
    "constant": jnp.ones_like(student),
    "one channel": student.at[..., 1:].set(0),
    "antipodal": student.at[1].set(-student[0]),
    "one row": student[:1],
    "huge": 1e4 * student,
    "tiny": 1e-4 * student,
    "common mean": student + 1e3,
  }


# The others are rows of the contract.
OPTIONS = [name for name in LOSSES if "," in name and "learnt" not in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradients_are_finite_at_degenerate_maps(name):
  teacher = _maps()[1]
  evaluate = jax.jit(jax.value_and_grad(LOSSES[name], argnums=(0, 1)))
  for case, maps in _degenerate_maps().items():
    for problem in ((maps, teacher[: len(maps)]), (maps, maps)):
      finite = jax.tree.map(lambda x: np.isfinite(x).all(), evaluate(*problem))
      assert all(jax.tree.leaves(finite)), case


@pytest.mark.slow
def test_bad_input_is_refused():
  student, teacher = _maps()
  with pytest.raises(ValueError, match=r"student: expected non-empty maps of shape"):
    losses.nst(student[0], teacher)
  with pytest.raises(ValueError, match="student has 6, teacher has 5"):
    losses.attention_transfer(student, teacher[1:])
  with pytest.raises(TypeError, match="teacher: expected a floating-point array"):
    losses.nst(student, teacher.astype(jnp.int32))
  with pytest.raises(ValueError, match=r"mask: expected shape \(6,\), got \(3,\)"):
    losses.nst(student, teacher, mask=jnp.ones(3, bool))
  with pytest.raises(ValueError, match="kernel: expected one of 'polynomial'"):
    losses.nst(student, teacher, kernel="cubic")
  with pytest.raises(ValueError, match="exponent: expected a number above 0"):
    losses.attention_transfer(student, teacher, exponent=0.0)
  with pytest.raises(ValueError, match="reduction: expected one of 'rows', 'elements'"):
    losses.attention_transfer(student, teacher, reduction="mean")
  with pytest.raises(ValueError, match="student: expected a pair of maps"):
    losses.fsp(student, (teacher, teacher))
  with pytest.raises(ValueError, match=r"teacher\[1\]: expected non-empty maps"):
    losses.fsp((student, student), (teacher, teacher[0]))
  with pytest.raises(ValueError, match=r"the student has \(3, 3\) and the teacher"):
    losses.fsp((student, student), (teacher, teacher))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e11, 1e18, 1e30])
def test_fsp_never_has_a_nan_gradient(scale):
  """Gradients that the dtype can hold are exact; larger ones keep their sign."""
  rng = np.random.default_rng(0)
  maps = rng.standard_normal((2, 4, 4, 4, 5)) * scale

  def loss(student, teacher):
    split = [(each[..., :2], each[..., 2:]) for each in (student, teacher)]
    return losses.fsp(*split)

  function = jax.jit(jax.value_and_grad(loss))
  value, gradient = function(*maps.astype(np.float32))
  with jax.enable_x64(True):
    expected, reference = function(*maps)
  assert float(expected) > 4e38
  assert np.isposinf(value)
  assert np.isfinite(gradient).all()
  if np.abs(reference).max() < 1e38:
    np.testing.assert_allclose(gradient, reference, atol=1e-4 * np.abs(reference).max())
