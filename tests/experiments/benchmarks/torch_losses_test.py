"""Losses in PyTorch, as published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import losses as benchmark_losses
from flowkd_jax import losses

ORIGINALS = {
  "information_flow": lambda s, t: losses.information_flow([s], [t], authors=True),
  "pkt": lambda s, t: losses.pkt(s, t, authors=True),
  "linear_cka": losses.linear_cka,
  "token_relations": lambda s, t: losses.token_relations(s[None], t[None]),
  "patch_relations": lambda s, t: losses.patch_relations(s[None], t[None]),
  "rrd": lambda s, t: benchmark_losses.LOSSES["rrd"](s, t[:, : s.shape[1]]),
  "crd": lambda s, t: losses.crd(s, t[:, : s.shape[1]]),
  **{
    name: lambda s, t, name=name: getattr(losses, name)(s, t, reduction="matrix")
    for name in (
      "similarity_preserving",
      "rkd_distance",
      "rkd_angle",
      "correlation_congruence",
    )
  },
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_pytorch_computes_the_same_loss(name):
  torch = pytest.importorskip("torch")
  from experiments.benchmarks import torch_losses

  rng = np.random.default_rng(0)
  student, teacher = (rng.standard_normal((12, d)).astype(np.float32) for d in (5, 7))
  ours, gradient = jax.value_and_grad(ORIGINALS[name])(
    jnp.asarray(student), jnp.asarray(teacher)
  )
  rows = torch.tensor(student, requires_grad=True)
  targets = torch.tensor(
    teacher[:, :5] if name in benchmark_losses.EQUAL_WIDTHS else teacher
  )
  theirs = torch_losses.LOSSES[name](rows, targets)
  np.testing.assert_allclose(ours, theirs.item(), rtol=1e-3)
  expected = torch.autograd.grad(theirs, rows)[0].numpy()
  np.testing.assert_allclose(gradient, expected, atol=1e-3 * abs(expected).max())


@pytest.mark.parametrize(
  "name", [*filter(lambda n: n not in benchmark_losses.LOGITS, benchmark_losses.LOSSES)]
)
def test_products_alone_are_no_more_than_those_of_the_loss(name):
  flop_counter = pytest.importorskip("torch.utils.flop_counter")
  from experiments.benchmarks import torch_losses

  rng = np.random.default_rng(0)
  widths = (8, 8) if name in benchmark_losses.EQUAL_WIDTHS else (8, 16)
  features = [rng.standard_normal((300, d)).astype(np.float32) for d in widths]
  if name == "rkd_angle":
    features = [rows[:10] for rows in features]
  flops = []
  for make in (torch_losses.program, torch_losses.products):
    with flop_counter.FlopCounterMode(display=False) as counter:
      make(name, *features)()
    flops.append(counter.get_total_flops())
  assert 0.35 * flops[0] < flops[1] <= flops[0]


def test_pytorch_and_ours_have_the_same_losses():
  torch_losses = pytest.importorskip("experiments.benchmarks.torch_losses")
  assert list(torch_losses.LOSSES) == list(benchmark_losses.LOSSES)
