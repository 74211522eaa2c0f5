"""Losses on maps in PyTorch, as published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import map_losses


@pytest.mark.slow
@pytest.mark.parametrize("name", map_losses.LOSSES)
def test_pytorch_computes_the_same_loss(name):
  torch = pytest.importorskip("torch")
  from experiments.benchmarks import torch_map_losses

  shape = (4, 6, 6, 5)
  rng = np.random.default_rng(0)
  maps = [np.abs(rng.standard_normal(shape, np.float32)) for _ in range(2)]
  params = map_losses.parameters(name, shape)
  evaluate = jax.jit(jax.value_and_grad(map_losses.LOSSES[name]))
  value, gradient = evaluate(*map(jnp.asarray, maps), params)
  student, teacher = map(torch_map_losses.channels_first, maps)
  student.requires_grad_()
  learnt = jax.tree.map(torch_map_losses.as_torch, params)
  theirs = torch_map_losses.LOSSES[name](student, teacher, learnt)
  np.testing.assert_allclose(value, theirs.item(), rtol=1e-3)
  expected = torch.autograd.grad(theirs, student)[0].numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(gradient, expected, atol=1e-3 * abs(expected).max())


def test_pytorch_and_ours_have_the_same_losses():
  torch_map_losses = pytest.importorskip("experiments.benchmarks.torch_map_losses")
  assert list(torch_map_losses.LOSSES) == list(map_losses.LOSSES)
