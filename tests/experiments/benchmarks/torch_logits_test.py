"""Losses on logits in PyTorch, as published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import losses as benchmark_losses


@pytest.mark.parametrize("name", benchmark_losses.LOGITS)
def test_pytorch_computes_the_same_loss(name):
  torch = pytest.importorskip("torch")
  from experiments.benchmarks import torch_logits

  rng = np.random.default_rng(0)
  student, teacher = (rng.standard_normal((6, 12)).astype(np.float32) for _ in "st")
  ours, gradient = jax.value_and_grad(benchmark_losses.LOSSES[name])(
    jnp.asarray(student), jnp.asarray(teacher)
  )
  logits = torch.tensor(student, requires_grad=True)
  theirs = torch_logits.LOSSES[name](logits, torch.tensor(teacher))
  np.testing.assert_allclose(ours, theirs.item(), rtol=1e-4)
  expected = torch.autograd.grad(theirs, logits)[0].numpy()
  np.testing.assert_allclose(gradient, expected, atol=1e-4 * abs(expected).max())


def test_pytorch_and_ours_have_the_same_losses():
  torch_logits = pytest.importorskip("experiments.benchmarks.torch_logits")
  assert list(torch_logits.LOSSES) == list(benchmark_losses.LOGITS)
