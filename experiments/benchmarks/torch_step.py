"""The paper's student step in PyTorch: what the benchmark compares with.

The equations of the published code, at their best: the teacher in evaluation mode and
outside the graph, channels last, fused Adam, data on the device. Needs PyTorch, which
nothing else in the project does.
"""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import torch

from experiments.benchmarks import measurement
from experiments.benchmarks import torch_modes

EPSILON = 1e-6


class CNN(torch.nn.Module):
  """CNN1 (width 8) and CNN1-A (width 16) for 32x32 colour images."""

  def __init__(self, width: int):
    """`width` is the number of channels of the first block."""
    super().__init__()
    sizes = (3, width, 2 * width, 4 * width)
    self.convs = torch.nn.ModuleList(
      torch.nn.Conv2d(a, b, 3) for a, b in zip(sizes, sizes[1:], strict=False)
    )
    self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(b) for b in sizes[1:])
    self.hidden = torch.nn.Linear(16 * width, 8 * width)
    self.classifier = torch.nn.Linear(8 * width, 10)

  def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
    """The four taps."""
    features = []
    for conv, norm in zip(self.convs, self.norms, strict=True):
      x = torch.nn.functional.max_pool2d(torch.relu(norm(conv(x))), 2)
      features.append(x.flatten(1))
    features.append(torch.relu(self.hidden(x.flatten(1))))
    return features


def flow_loss(
  student: Sequence[torch.Tensor],
  teacher: Sequence[torch.Tensor],
  weights: Sequence[float],
) -> torch.Tensor:
  """Jeffreys divergence under the cosine and Student-t kernels, over all taps."""
  total = student[0].new_zeros(())
  for weight, *pair in zip(weights, student, teacher, strict=True):
    for s, t in zip(*(_kernels(features) for features in pair), strict=True):
      s, t = s / s.sum(1, keepdim=True), t / t.sum(1, keepdim=True)
      total = total + weight * ((t - s) * (torch.log(t) - torch.log(s))).mean()
  return total


def distillation_step(
  images: np.ndarray,
  weights: Sequence[float],
  *,
  mode: str = measurement.EAGER,
  device: torch.device | None = None,
) -> Callable[[], None]:
  """A function that runs one step to its end.

  Args:
    images: `[batch, 32, 32, 3]`; they are put on the device once.
    weights: One for each tap.
    mode: One of `measurement.MODES`.
    device: Device of PyTorch, by default the CPU.
  """
  device = device or torch.device("cpu")
  torch_modes.set_up()
  # Convolutions are fastest with channels last, on CPUs and on tensor cores.
  put = {"device": device, "memory_format": torch.channels_last}
  student, teacher = CNN(8).train().to(**put), CNN(16).eval().to(**put)
  optimizer = torch.optim.Adam(
    student.parameters(), lr=1e-3, fused=True, capturable=mode == measurement.GRAPH
  )
  batch = torch.tensor(images.transpose(0, 3, 1, 2).copy()).to(**put)

  def loss(batch):
    with torch.no_grad():
      targets = teacher(batch)
    return flow_loss(student(batch), targets, weights)

  loss = torch_modes.compiled(loss, mode)

  def step():
    optimizer.zero_grad()
    loss(batch).backward()
    optimizer.step()

  return torch_modes.program(step, mode, device)


def loss_alone(
  student: Sequence[np.ndarray],
  teacher: Sequence[np.ndarray],
  weights: Sequence[float],
  *,
  mode: str = measurement.EAGER,
  device: torch.device | None = None,
) -> Callable[[], None]:
  """A function that runs the loss forward and backward on given taps, to its end."""
  device = device or torch.device("cpu")
  torch_modes.set_up()
  student_taps = [torch.tensor(tap, device=device).requires_grad_() for tap in student]
  teacher_taps = [torch.tensor(tap, device=device) for tap in teacher]
  loss = torch_modes.compiled(
    lambda student, teacher: flow_loss(student, teacher, weights), mode
  )

  def step():
    return torch.autograd.grad(loss(student_taps, teacher_taps), student_taps)

  return torch_modes.program(step, mode, device)


def _kernels(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
  squares = (features**2).sum(1, keepdim=True)
  unit = features / (torch.sqrt(squares) + EPSILON)
  squared = torch.clamp(squares + squares.T - 2 * features @ features.T, min=0.0)
  return (unit @ unit.T + 1) / 2, 1 / (1 + torch.sqrt(squared + EPSILON))
