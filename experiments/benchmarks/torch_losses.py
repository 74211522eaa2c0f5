"""Pairwise losses in PyTorch as published: what the benchmark compares with.

The equations of the codes that people run, at their best: the teacher outside the
graph, no loops over rows. Where a published code has a slow and a fast form, it is the
fast one. Needs PyTorch.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from experiments.benchmarks import measurement
from experiments.benchmarks import torch_logits
from experiments.benchmarks import torch_modes
from experiments.benchmarks import torch_step

TEMPERATURE = 0.07
GAMMA = 0.4
ORDER = 2
# Rows at once of products alone: what they write stays in the caches.
PRODUCT_ROWS = 256


def information_flow(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """The combined loss of heterogeneous distillation, one tap (Passalis et al. 2020)."""
  return torch_step.flow_loss([student], [teacher], [1.0])


def pkt(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """The authors' PKT (Passalis and Tefas 2018), as in RepDistiller."""
  epsilon = 1e-7

  def probabilities(rows):
    norms = torch.sqrt((rows**2).sum(1, keepdim=True))
    rows = rows / (norms + epsilon)
    similarities = (rows @ rows.T + 1) / 2
    return similarities / similarities.sum(1, keepdim=True)

  s, t = probabilities(student), probabilities(teacher)
  return (t * torch.log((t + epsilon) / (s + epsilon))).mean()


def similarity_preserving(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """SP (Tung and Mori 2019), as in RepDistiller."""
  similarities = [functional.normalize(rows @ rows.T) for rows in (student, teacher)]
  return ((similarities[0] - similarities[1]) ** 2).mean()


def rkd_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """The authors' distance loss (Park et al. 2019).

  The mean of positive distances without their selection: an array whose size depends on
  the values cannot be compiled into one program, nor captured.
  """

  def relative(rows):
    squares = (rows**2).sum(1)
    squared = squares[:, None] + squares[None, :] - 2 * rows @ rows.T
    distances = squared.clamp(min=1e-12).sqrt().clone()
    distances.fill_diagonal_(0)
    return distances / (distances.sum() / (distances > 0).sum())

  return functional.smooth_l1_loss(relative(student), relative(teacher))


def rkd_angle(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """The authors' angle loss (Park et al. 2019)."""

  def cosines(rows):
    arms = functional.normalize(rows[None] - rows[:, None], dim=2)
    return torch.bmm(arms, arms.transpose(1, 2)).view(-1)

  return functional.smooth_l1_loss(cosines(student), cosines(teacher))


def correlation_congruence(
  student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
  """The paper's loss (Peng et al. 2019), as in Knowledge-Distillation-Zoo.

  The code that the authors gave to RepDistiller compares neighbouring rows only.
  """

  def correlations(rows):
    rows = functional.normalize(rows)
    cosines = rows @ rows.T
    total = torch.zeros_like(cosines)
    for p in range(ORDER + 1):
      factor = math.exp(-2 * GAMMA) * (2 * GAMMA) ** p / math.factorial(p)
      total = total + factor * torch.pow(cosines, p)
    return total

  return functional.mse_loss(correlations(student), correlations(teacher))


def linear_cka(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """One minus linear CKA in the authors' feature form (Kornblith et al. 2019)."""
  student, teacher = (rows - rows.mean(0) for rows in (student, teacher))
  across = (student.T @ teacher).norm() ** 2
  return 1 - across / ((student.T @ student).norm() * (teacher.T @ teacher).norm())


def rbf_cka(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """One minus the authors' CKA with Gaussian kernels and the median distance."""

  def centred(rows):
    products = rows @ rows.T
    squares = products.diagonal()
    squared = squares[:, None] + squares[None, :] - 2 * products
    similarities = torch.exp(-squared / (2 * squared.detach().median()))
    means = similarities.mean(0)
    means = means - means.mean() / 2
    return similarities - means[:, None] - means[None, :]

  s, t = centred(student), centred(teacher)
  return 1 - (s * t).sum() / (s.norm() * t.norm())


def crd(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """InfoNCE in the batch and both ways, as in CLIP; no heads."""
  student, teacher = functional.normalize(student), functional.normalize(teacher)
  logits = student @ teacher.T / TEMPERATURE
  labels = torch.arange(len(student), device=student.device)
  return functional.cross_entropy(logits, labels) + functional.cross_entropy(
    logits.T, labels
  )


def rrd(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """RRD (Giakoumoglou and Stathaki 2024), no heads, the batch as the queue."""
  student, teacher = functional.normalize(student), functional.normalize(teacher)
  targets = functional.softmax(teacher @ teacher.T / 0.02, dim=1)
  logs = functional.log_softmax(student @ teacher.T / 0.1, dim=1)
  return -(targets * logs).sum(1).mean()


def token_relations(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """MiniLMv2's relation loss (Wang et al. 2021), one head, the rows as tokens."""
  logs = [
    functional.log_softmax(rows @ rows.T / rows.shape[1] ** 0.5, 1)
    for rows in (student, teacher)
  ]
  return functional.kl_div(*logs, reduction="batchmean", log_target=True)


def patch_relations(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """The Gram loss of DINOv3 (Simeoni et al. 2025), the rows as patches of an image."""
  grams = [rows @ rows.T for rows in map(functional.normalize, (student, teacher))]
  return functional.mse_loss(*grams)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
  loss.__name__: loss
  for loss in (
    information_flow,
    pkt,
    similarity_preserving,
    rkd_distance,
    rkd_angle,
    correlation_congruence,
    linear_cka,
    rbf_cka,
    crd,
    rrd,
    token_relations,
    patch_relations,
  )
} | torch_logits.LOSSES


def program(
  name: str,
  student: np.ndarray,
  teacher: np.ndarray,
  *,
  mode: str = measurement.EAGER,
  device: torch.device | None = None,
) -> Callable[[], None]:
  """A function that runs the loss forward and backward, to its end.

  Args:
    name: One of `LOSSES`.
    student: Student features.
    teacher: Teacher features.
    mode: One of `measurement.MODES`.
    device: Device of PyTorch, by default all cores of the CPU.
  """
  device = device or torch.device("cpu")
  torch_modes.set_up()
  rows = torch.tensor(student, device=device).requires_grad_()
  targets = torch.tensor(teacher, device=device)
  loss = torch_modes.compiled(LOSSES[name], mode)

  def step():
    return torch.autograd.grad(loss(rows, targets), rows)

  if mode != measurement.EAGER:
    step()  # compiles
  return torch_modes.program(step, mode, device)


def products(
  name: str,
  student: np.ndarray,
  teacher: np.ndarray,
  *,
  device: torch.device | None = None,
) -> Callable[[], None]:
  """Matrix products that a loss and its gradient need at least.

  Those of the similarities, and one that takes their gradient back to the student, in
  single precision and in blocks of rows: a floor below whatever computes them.
  """
  device = device or torch.device("cpu")
  torch_modes.set_up()
  rows, targets = (torch.tensor(each, device=device) for each in (student, teacher))
  multiply = PRODUCTS.get(name, _products_of_pairs)
  return torch_modes.program(lambda: multiply(rows, targets), measurement.EAGER, device)


def _products_of_pairs(student, teacher):
  for some, targets in zip(
    student.split(PRODUCT_ROWS), teacher.split(PRODUCT_ROWS), strict=True
  ):
    torch.mm(targets, teacher.T)
    torch.mm(torch.mm(some, student.T), student)


def _products_across(student, teacher):
  for some in student.split(PRODUCT_ROWS):
    torch.mm(torch.mm(some, teacher.T), teacher)


def _products_of_features(student, teacher):
  torch.mm(teacher.T, teacher)
  torch.mm(student, torch.mm(student.T, student))
  torch.mm(teacher, torch.mm(teacher.T, student))


def _products_of_triples(student, teacher):
  for row, target in zip(student, teacher, strict=True):
    _products_of_pairs(student - row, teacher - target)


PRODUCTS = {
  "rkd_angle": _products_of_triples,
  "linear_cka": _products_of_features,
  "crd": _products_across,
}
