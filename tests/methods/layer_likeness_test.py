"""Linear CKA of all pairs of taps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import evaluation
from flowkd_jax.methods import _layer_likeness

_MASK = np.arange(8) < 6


def _taps(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=(8, *shape)).astype(np.float32) for shape in shapes]


_STUDENTS, _TEACHERS = _taps(0, (3,), (2, 2, 5)), _taps(1, (40,), (4,))


def test_all_pairs_are_those_of_the_matrix_on_the_host():
  students = [rows.copy() for rows in _STUDENTS]
  for rows in students:
    rows[~_MASK] = np.nan
  teachers = [1e30 * _TEACHERS[0], _TEACHERS[1] + 100]
  found = jax.jit(_layer_likeness.cka_of_all_pairs, static_argnames="axis_name")(
    students, teachers, mask=jnp.asarray(_MASK), axis_name=None
  )
  real = ([rows[_MASK] for rows in side] for side in (_STUDENTS, _TEACHERS))
  np.testing.assert_allclose(found, evaluation.cka_matrix(*real), rtol=1e-3)


def test_a_tap_whose_rows_are_alike_resembles_nothing():
  constant = [jnp.full((8, 3), 0.1), jnp.zeros((8, 2))]
  teachers = [jnp.asarray(rows) for rows in _TEACHERS]
  found = _layer_likeness.cka_of_all_pairs(
    constant, teachers, mask=None, axis_name=None
  )
  np.testing.assert_array_equal(found, np.zeros((2, 2)))


@pytest.mark.eight_devices
def test_all_pairs_are_those_of_the_global_batch():
  def split(rows):
    return jnp.asarray(rows).reshape(4, 2, *rows.shape[1:])

  @functools.partial(jax.pmap, axis_name="batch", devices=jax.devices()[:4])
  def run(students, teachers, mask):
    return _layer_likeness.cka_of_all_pairs(
      students, teachers, mask=mask, axis_name="batch"
    )

  arguments = [*map(split, _STUDENTS)], [*map(split, _TEACHERS)], split(_MASK)
  found = np.asarray(run(*arguments))
  real = ([rows[_MASK] for rows in side] for side in (_STUDENTS, _TEACHERS))
  expected = evaluation.cka_matrix(*real)
  np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-3)
