"""Memory of evaluation in row blocks, as the compiler plans it; nothing is run."""

import functools

import jax
import jax.numpy as jnp
import pytest

from flowkd_jax import losses
from flowkd_jax._numerics import row_blocks

# Programs for GPUs reserve some 33 MiB for matrix products whatever their size: more
# rows, so that this does not count.
ROWS = 4096 if jax.default_backend() == "cpu" else 16384
BLOCK, WIDTH = 256, 16


def _flow(*names):
  return lambda s, t, **options: losses.information_flow(
    [s], [t], kernels=names, **options
  )


def _quadratic_flow(student, teacher, **options):
  labels = jnp.arange(ROWS, dtype=jnp.int32) % 3
  return losses.quadratic_flow(
    [student],
    [teacher],
    labels=labels,
    num_classes=3,
    kernels=("student_t",),
    **options,
  )


LOSSES = {
  "information_flow": _flow("cosine", "student_t"),
  "information_flow, adaptive": _flow("adaptive_rbf"),
  "pkt": losses.pkt,
  "quadratic_flow": _quadratic_flow,
  "similarity_preserving": losses.similarity_preserving,
  "rkd_distance": losses.rkd_distance,
  "correlation_congruence": losses.correlation_congruence,
  "rbf_cka": losses.rbf_cka,
  "crd": losses.crd,
}


def _temporary_bytes(loss, block_size):
  features = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
  function = jax.value_and_grad(
    functools.partial(loss, block_size=block_size), argnums=(0, 1)
  )
  compiled = jax.jit(function).lower(features, features).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_blocks_bound_the_memory_of_value_and_gradient(name, monkeypatch):
  # On accelerators these rows would be one block.
  monkeypatch.setattr(row_blocks, "_ENTRIES_ELSEWHERE", row_blocks._ENTRIES_ON_CPU)
  dense, blocked, chosen = (
    _temporary_bytes(LOSSES[name], size) for size in (ROWS, BLOCK, None)
  )
  one_matrix = 4 * ROWS**2
  assert dense > one_matrix
  assert blocked < dense / 4
  assert chosen < dense / 4
