"""The paper's student step in PyTorch."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch_step = pytest.importorskip("experiments.benchmarks.torch_step")


def _probabilities(rows):
  """Conditional probabilities under both kernels, in double precision."""
  squares = (rows**2).sum(1, keepdims=True)
  unit = rows / (np.sqrt(squares) + 1e-6)
  squared = np.maximum(squares + squares.T - 2 * rows @ rows.T, 0)
  kernels = (unit @ unit.T + 1) / 2, 1 / (1 + np.sqrt(squared + 1e-6))
  return [kernel / kernel.sum(1, keepdims=True) for kernel in kernels]


def test_flow_loss_is_the_weighted_sum_of_divergences():
  rng = np.random.default_rng(0)
  students, teachers = (
    [rng.standard_normal((6, d)) for d in sizes] for sizes in ((3, 4), (5, 2))
  )
  weights = (2.0, 0.5)
  expected = sum(
    weight * ((t - s) * np.log(t / s)).mean()
    for weight, *pair in zip(weights, students, teachers, strict=True)
    for s, t in zip(*map(_probabilities, pair), strict=True)
  )
  taps = [[torch.tensor(rows) for rows in rooms] for rooms in (students, teachers)]
  found = torch_step.flow_loss(*taps, weights).item()
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert torch_step.flow_loss(taps[0], taps[0], weights).item() == 0


def test_network_has_the_taps_of_the_paper():
  features = torch_step.CNN(2)(torch.zeros(3, 3, 32, 32))
  assert [tuple(tap.shape) for tap in features] == [
    (3, 2 * 15 * 15),
    (3, 4 * 6 * 6),
    (3, 8 * 2 * 2),
    (3, 16),
  ]


@pytest.mark.slow
def test_distillation_step_runs_on_images_with_channels_last():
  rng = np.random.default_rng(0)
  images = rng.standard_normal((4, 32, 32, 3)).astype(np.float32)
  step = torch_step.distillation_step(images, [1.0] * 4)
  step()
  with pytest.raises(RuntimeError, match="channels"):
    torch_step.distillation_step(images.transpose(0, 3, 1, 2), [1.0] * 4)()
