"""Losses on logits in PyTorch as published: what the benchmark compares with.

The equations of the codes that people run, with the options that ours have by default.
Needs PyTorch.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

ALPHA = 0.1
TEMPERATURE = 4.0
TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
# Classes that the loss over k of them takes from the teacher.
TOP = 8


def knowledge_distillation(
  student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
  """Hinton's loss with the square of the temperature, as in RepDistiller."""
  return _at(TEMPERATURE, student, teacher)


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """Reverse relative entropy, as in TRL at beta = 1."""
  return _relative_entropy(_logs(teacher), _logs(student))


def skew_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """Skewed relative entropy of DistiLLM (Ko et al. 2024), entropy included."""
  p, q = functional.softmax(teacher, 1), functional.softmax(student, 1)
  mixed = ALPHA * p + (1 - ALPHA) * q
  return (p * (_logs(teacher) - torch.log(mixed))).sum(1).mean()


def jensen_shannon(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """Generalised Jensen-Shannon divergence at beta = 1/2, as in TRL."""
  sides = torch.stack([_logs(student), _logs(teacher)])
  mixed = torch.logsumexp(sides, 0) - torch.log(torch.tensor(2.0, device=sides.device))
  return sum(_relative_entropy(mixed, side) for side in sides) / 2


def transformed_teacher_matching(
  student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
  """WTTM as in the authors' code (Zheng and Yang 2024)."""
  powers = functional.softmax(teacher, 1) ** (1 / TEMPERATURE)
  weights = powers.sum(1)
  targets = powers / weights[:, None]
  rows = functional.kl_div(_logs(student), targets, reduction="none").sum(1)
  return (weights * rows).mean()


def top_k_distillation(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
  """Relative entropy over the teacher's top k and a tail, as in TRL."""
  top, ids = _logs(teacher).topk(TOP, dim=1)
  buckets = [
    torch.cat([logs, _tail(logs)], 1) for logs in (_logs(student).gather(1, ids), top)
  ]
  return _relative_entropy(*buckets)


def multi_level_distillation(
  student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
  """All terms of multi-level logit distillation (Jin et al. 2023) on one view."""
  total = student.new_zeros(())
  for temperature in TEMPERATURES:
    s, t = (functional.softmax(side / temperature, 1) for side in (student, teacher))
    total = total + _at(temperature, student, teacher)
    total = total + ((s @ s.T - t @ t.T) ** 2).sum() / s.shape[0]
    total = total + ((s.T @ s - t.T @ t) ** 2).sum() / s.shape[1]
  return total


def _at(temperature, student, teacher):
  logs = (_logs(side / temperature) for side in (student, teacher))
  return temperature**2 * _relative_entropy(*logs)


def _logs(logits):
  return functional.log_softmax(logits, 1)


def _relative_entropy(student_logs, teacher_logs):
  return functional.kl_div(
    student_logs, teacher_logs, reduction="batchmean", log_target=True
  )


def _tail(logs):
  total = torch.logsumexp(logs, 1, keepdim=True).clamp(max=-1e-7)
  return torch.log(-torch.expm1(total))


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
  loss.__name__: loss
  for loss in (
    knowledge_distillation,
    reverse_kl,
    skew_kl,
    jensen_shannon,
    transformed_teacher_matching,
    top_k_distillation,
    multi_level_distillation,
  )
}
