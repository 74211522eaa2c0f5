"""Losses on maps in PyTorch as published: what the benchmark compares with.

Maps are channels first. Learnt parameters come in the layout of our losses and are
turned into PyTorch's once, before anything is timed. Needs PyTorch.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from experiments.benchmarks import measurement
from experiments.benchmarks import torch_modes

TEMPERATURE = 4.0
EPSILON = 1e-5


def channel_wise_distillation(
  student: torch.Tensor, teacher: torch.Tensor, params: Any
) -> torch.Tensor:
  """CWD (Shu et al. 2021), with a logarithm that is stable."""
  del params
  logs = [
    functional.log_softmax(maps.flatten(2) / TEMPERATURE, 2)
    for maps in (student, teacher)
  ]
  total = functional.kl_div(logs[0], logs[1], reduction="sum", log_target=True)
  return TEMPERATURE**2 * total / student.shape[0] / student.shape[1]


def ickd(student: torch.Tensor, teacher: torch.Tensor, params: Any) -> torch.Tensor:
  """ICKD (Liu et al. 2021) without the embedding."""
  del params

  def correlations(maps):
    flat = maps.flatten(2)
    return functional.normalize(torch.bmm(flat, flat.transpose(1, 2)), dim=2)

  gaps = correlations(student) - correlations(teacher)
  return (gaps**2).sum() / gaps.shape[0] / gaps.shape[1]


def cosine_regression(
  student: torch.Tensor, teacher: torch.Tensor, params: Any
) -> torch.Tensor:
  """One minus the cosine at each position."""
  del params
  return (1 - functional.cosine_similarity(student, teacher)).mean()


def normalized_regression(
  student: torch.Tensor, teacher: torch.Tensor, params: Any
) -> torch.Tensor:
  """Squared distance of unit vectors at each position."""
  del params
  gaps = functional.normalize(student) - functional.normalize(teacher)
  return (gaps**2).sum(1).mean()


def gaussian_wasserstein(
  student: torch.Tensor, teacher: torch.Tensor, params: Any
) -> torch.Tensor:
  """WKD-F (Lv et al. 2024) with one cell and no projector."""
  del params

  def moments(maps):
    flat = maps.flatten(2)
    return flat.mean(2), (flat.var(2) + EPSILON).sqrt()

  (mean, deviation), (other_mean, other) = moments(student), moments(teacher)
  total = 4 * ((mean - other_mean) ** 2).sum() + ((deviation - other) ** 2).sum()
  return total / student.shape[0]


def hierarchical_context(
  student: torch.Tensor, teacher: torch.Tensor, params: Any
) -> torch.Tensor:
  """HCL (Chen et al. 2021)."""
  del params
  total, weight, weights = functional.mse_loss(student, teacher), 1.0, 1.0
  for side in (4, 2, 1):
    if side < student.shape[2]:
      weight /= 2
      pooled = [functional.adaptive_avg_pool2d(x, side) for x in (student, teacher)]
      total = total + weight * functional.mse_loss(*pooled)
      weights += weight
  return total / weights


def kdsvd(student: torch.Tensor, teacher: torch.Tensor, params: Any) -> torch.Tensor:
  """KDSVD (Lee et al. 2018) as in RepDistiller, with our sign of the vectors."""
  del params

  def vectors(maps, number):
    rows = maps.flatten(2).transpose(1, 2)
    return torch.linalg.svd(rows, full_matrices=False).Vh[:, :number].transpose(1, 2)

  total, earlier = student.new_zeros(()), None
  for ours, theirs in zip(_layers(student), _layers(teacher), strict=True):
    target = vectors(theirs, 1)
    target = target * torch.where(target.sum(1, keepdim=True) < 0, -1.0, 1.0)
    found = vectors(ours, 4)
    cosines = found.transpose(1, 2) @ target
    largest = cosines.abs().amax(1, keepdim=True)
    chosen = torch.where(cosines.abs() == largest, cosines.sign(), 0.0).detach()
    later = (found @ chosen, target)
    if earlier is not None:
      pairs = zip(later, earlier, strict=True)
      relations = [
        torch.exp(-((one[:, :, None] - other[:, None]) ** 2) / 8)
        for one, other in pairs
      ]
      total = total + ((relations[0] - relations[1]) ** 2).sum() / student.shape[0]
    earlier = later
  return total


def mgd(student: torch.Tensor, teacher: torch.Tensor, params: Any) -> torch.Tensor:
  """MGD (Yang et al. 2022) with a mask that is given."""
  kept, layers = params
  first, second = layers["generator"]
  hidden = functional.relu(_convolved(student * kept[:, None], first))
  gaps = _convolved(hidden, second) - teacher
  return (gaps**2).sum() / student.shape[0]


def review_kd(
  student: torch.Tensor, teacher: torch.Tensor, params: Any
) -> torch.Tensor:
  """ReviewKD (Chen et al. 2021) on two layers, with the statistics of the batch."""
  taps, targets = _layers(student), _layers(teacher)
  deep, shallow = params["levels"][1], params["levels"][0]
  fused = _normalized(taps[1], deep["reduce"])
  total = hierarchical_context(_normalized(fused, deep["output"]), targets[1], None)
  maps = _normalized(taps[0], shallow["reduce"])
  fused = functional.interpolate(fused, maps.shape[2:], mode="nearest")
  attention = _convolved(torch.cat([maps, fused], 1), shallow["attention"]).sigmoid()
  maps = maps * attention[:, :1] + fused * attention[:, 1:]
  output = _normalized(maps, shallow["output"])
  return total + hierarchical_context(output, targets[0], None)


def _layers(maps):
  return [maps, maps[:, :, ::2, ::2]]


def _convolved(maps, layer):
  kernel = layer["kernel"]
  return functional.conv2d(maps, kernel, layer["bias"], padding=kernel.shape[2] // 2)


def _normalized(maps, layer):
  kernel = layer["kernel"]
  product = functional.conv2d(maps, kernel, padding=kernel.shape[2] // 2)
  return functional.batch_norm(
    product, None, None, layer["scale"], layer["bias"], training=True
  )


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]] = {
  loss.__name__: loss
  for loss in (
    channel_wise_distillation,
    ickd,
    cosine_regression,
    normalized_regression,
    gaussian_wasserstein,
    hierarchical_context,
    kdsvd,
    mgd,
    review_kd,
  )
}


def program(
  name: str,
  student: np.ndarray,
  teacher: np.ndarray,
  params: Any,
  *,
  mode: str = measurement.EAGER,
  device: torch.device | None = None,
) -> Callable[[], None]:
  """A function that runs the loss forward and backward, to its end.

  Args:
    name: One of `LOSSES`.
    student: Student maps, channels last.
    teacher: Teacher maps.
    params: Learnt parameters in our layout, or None.
    mode: One of `measurement.MODES`.
    device: Device of PyTorch, by default all cores of the CPU.
  """
  device = device or torch.device("cpu")
  torch_modes.set_up()
  maps, targets = (channels_first(each).to(device) for each in (student, teacher))
  maps.requires_grad_()
  learnt = jax.tree.map(lambda leaf: as_torch(leaf).to(device), params)
  loss = torch_modes.compiled(LOSSES[name], mode)

  def step():
    return torch.autograd.grad(loss(maps, targets, learnt), maps)

  if mode != measurement.EAGER:
    step()  # compiles
  return torch_modes.program(step, mode, device)


def channels_first(maps: np.ndarray) -> torch.Tensor:
  """Maps in the layout of PyTorch."""
  return torch.tensor(np.ascontiguousarray(maps.transpose(0, 3, 1, 2)))


def as_torch(array: Any) -> torch.Tensor:
  """A parameter in the layout of PyTorch: kernels become `[out, in, height, width]`."""
  array = np.asarray(array)
  if array.ndim == 2:
    array = array[None, None]
  if array.ndim == 4:
    array = array.transpose(3, 2, 0, 1)
  return torch.tensor(np.ascontiguousarray(array))
