"""Table of the contract tests of methods: a call that makes each public method."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import optax

from flowkd_jax import methods
from flowkd_jax import models

CLASSES = 3
CNN = models.by_name("digits_cnn:2", num_classes=CLASSES, axis_name="batch")
RESNET = models.CifarResNet(
  num_blocks=1, widths=(2, 4), stem_width=2, num_classes=CLASSES, axis_name="batch"
)
BRANCHED = models.with_branches(RESNET, 4 * CLASSES)
LATENT = models.LatentCNN(width=3, latent=5, num_classes=CLASSES, axis_name="batch")
PAIRS = {"dense": "dense"}


class Row(NamedTuple):
  """One method: `make(optimizer, variables)` uses the variables wherever it can.

  Attributes:
    make: Start and teacher are the same variables, as in born-again networks.
    network: The network that the variables belong to.
    parts: Names of the trees that an optimizer sees, if there are several.
  """

  make: Callable[[optax.GradientTransformation, Any], methods.Method]
  network: nn.Module = CNN
  parts: tuple[str, ...] = ("student",)


def _distilled(factory, parts=("student",), **options):
  def make(optimizer, variables):
    return factory(
      CNN,
      methods.Network(CNN.clone(axis_name=None), variables),
      optimizer,
      initial=variables,
      **options,
    )

  return Row(make, parts=parts)


def _simkd(optimizer, variables):
  teacher = methods.Network(RESNET.clone(axis_name=None), variables)
  pairs = {"f2": "f2"}
  return methods.simkd(RESNET, teacher, optimizer, pairs=pairs, initial=variables)


def _hierarchical_student(optimizer, variables):
  teacher = methods.Network(BRANCHED.clone(axis_name=None), variables)
  return methods.hierarchical_student(RESNET, teacher, optimizer)


def _frozen_backbone(optimizer, variables):
  backbone = models.backbone_variables(variables)
  return methods.hierarchical_teacher(RESNET, optimizer, backbone=backbone)


def _federated(optimizer, variables):
  del variables
  generator = methods.GeneratorOptions(
    optimizer=optimizer, latent_weight=1.0, steps=1, hidden=4, noise=2
  )
  return methods.federated_averaging(LATENT, 0.1, generator=generator)


def _supervised(optimizer, variables):
  return methods.supervised(CNN, optimizer, initial=variables)


ROWS = {
  "supervised": Row(_supervised, parts=()),
  "averaged": Row(lambda *a: methods.averaged(_supervised(*a), decay=0.9), parts=()),
  "with_trajectory": Row(lambda *a: methods.with_trajectory(_supervised(*a)), parts=()),
  "knowledge_distillation": _distilled(methods.knowledge_distillation),
  "information_flow": _distilled(
    methods.information_flow, pairs=PAIRS, weights={"dense": 1.0}
  ),
  "hint": _distilled(methods.hint, ("student", "learnt"), pairs=PAIRS),
  "simkd": Row(_simkd, RESNET, ("student", "learnt")),
  "similarity_preserving": _distilled(methods.similarity_preserving, pairs=PAIRS),
  "filtered_distillation": _distilled(methods.filtered_distillation),
  "online_ensemble": Row(
    lambda optimizer, _: methods.online_ensemble(RESNET, optimizer, num_students=2),
    RESNET,
    parts=("ensemble", "adapters"),
  ),
  "hierarchical_teacher": Row(
    lambda optimizer, _: methods.hierarchical_teacher(RESNET, optimizer),
    BRANCHED,
    parts=("network", "branches"),
  ),
  "hierarchical_teacher, frozen": Row(_frozen_backbone, BRANCHED, ("branches",)),
  "hierarchical_student": Row(_hierarchical_student, BRANCHED, ("student", "branches")),
  "hierarchical_mutual": Row(
    lambda optimizer, _: methods.hierarchical_mutual((RESNET, RESNET), optimizer),
    RESNET,
    parts=("network_1", "network_2"),
  ),
  "federated_averaging": Row(_federated, LATENT, parts=()),
}
