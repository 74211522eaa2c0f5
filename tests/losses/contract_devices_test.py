"""Contract of every public loss: several devices, meshes and other platforms.

The rows are those of `contract_rows.ROWS`.
"""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from tests.losses import contract_problems as problems
from tests.losses.contract_rows import ROWS

# Logits, maps, vectors, pairs of rows, taps and tables, for what all have in common.
ONE_OF_A_KIND = (
  "knowledge_distillation",
  "attention_transfer",
  "hint",
  "similarity_preserving",
  "information_flow",
  "crd_bank",
)


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
@problems.every_loss
def test_global_batch_on_eight_devices(name, x64):
  sides = problems.example(name, dtype=np.float64)
  parameters = [
    1 + 0.1 * rows[0].astype(np.float64) for rows in problems.example(name, 3)
  ]
  data = sides, problems.ids(), problems.mask("most")
  scaled = [rows * each for rows, each in zip(sides, parameters, strict=True)]
  plain = problems.plain(name)(*scaled, *data[1:])
  chain = [(g * rows).sum(0) for g, rows in zip(plain[1], sides, strict=True)]
  expected = plain[0], chain

  spread = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), data)
  mapped = jax.pmap(_step(name), axis_name="batch", in_axes=(None, 0, 0, 0))
  results = mapped(parameters, *spread)
  for device in range(8):
    problems.assert_close(jax.tree.map(lambda x, d=device: x[d], results), expected)
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
      problems.assert_close(results, expected)

  automatic = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
  placed = jax.device_put((*scaled, *data[1:]), NamedSharding(automatic, rows))
  problems.assert_close(problems.plain(name)(*placed), plain)


@pytest.mark.eight_devices
@pytest.mark.slow
@problems.every_loss
def test_explicit_meshes_change_nothing(name, x64):
  """Rows over one axis, the features of maps and vectors over the other if it fits."""
  mesh = jax.make_mesh((4, 2), ("batch", "model"))
  sides, ids, mask = (
    problems.example(name, dtype=np.float64),
    problems.ids(),
    problems.mask("most"),
  )
  expected = problems.plain(name)(*sides, ids, mask)
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
  result = jax.jit(problems.value_and_grad(name))(*placed)
  problems.assert_close(result, expected)
  for gradient, spec in zip(result[1], specs, strict=True):
    assert gradient.sharding.spec == spec
  if name in ONE_OF_A_KIND:  # every operation alone is compiled again on a mesh
    eager = ROWS[name].call(*placed[:3], mask=placed[3])
    np.testing.assert_allclose(eager, expected[0], rtol=1e-6)


@problems.every_loss
def test_lowers_for_tpu_and_cuda(name):
  problem = *problems.example(name), problems.ids(), problems.mask("most")
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), problem)
  exported = jax.export.export(problems.plain(name), platforms=["tpu", "cuda"])(*shapes)
  assert exported.platforms == ("tpu", "cuda")
