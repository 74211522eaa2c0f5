"""Hierarchical self-supervised distillation (Yang, An, Cai, Xu, IJCAI 2021).

"Hierarchical Self-supervised Augmented Knowledge Distillation",
https://arxiv.org/abs/2107.13715 (HSAKD), and its extension to networks that teach each
other, https://arxiv.org/abs/2109.03075 (HSSAKD). The networks see each image in M = 4
rotations `t_j x`. After each stage l of the backbone `f`, a branch `c_l` predicts class
and rotation together, as the joint label `k_j = 4 y + j`. Branches are used only in
training.

The paper has three training methods. `hierarchical_teacher` trains a teacher, from
scratch or with branches on a frozen backbone:

    L = CE(f(x), y) + 1/M sum_j sum_l CE(c_l(t_j x), k_j)

`hierarchical_student` trains a student from a frozen teacher. Its branches learn from
the teacher's branches, stage by stage, and not from joint labels:

    L = CE(f(x), y) + 1/M sum_j T^2 KL(f^T(t_j x), f(t_j x))
        + 1/M sum_j sum_l T^2 KL(c_l^T(t_j x), c_l(t_j x))

`hierarchical_mutual` trains two networks that teach each other from scratch. Its loss
is the teacher's loss of both networks, plus both divergences from the other network,
which receives no gradient from them.

KL compares probabilities softened by the temperature T = 3. The cross-entropy of the
backbone reads only upright images; BatchNorm sees all four rotations, as in the
authors' code.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax import lax

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import renamed
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _heads
from flowkd_jax.methods import _method
from flowkd_jax.methods import _micro_batches
from flowkd_jax.methods import _optimizers
from flowkd_jax.methods import _rotations


@renamed.renamed_arguments(learnt_optimizer="params_optimizer")
def hierarchical_teacher(
  network: models.CifarResNet,
  optimizer: optax.GradientTransformation,
  *,
  backbone: _method.Variables | None = None,
  keep_branches: bool = True,
  params_optimizer: optax.GradientTransformation | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Training of a network on labels, and of its branches on joint labels.

  Args:
    network: The backbone. Its BatchNorm layers need the same `axis_name`.
    optimizer: Optimizer of the backbone. It sees the backbone's own parameters.
    backbone: Variables of a trained backbone. The backbone then stays frozen in
      evaluation mode, and only the branches are trained. None trains both from scratch.
    keep_branches: True if the exported network has its branches, which a teacher needs.
      Without them, the method is a control experiment: joint labels without a teacher.
    params_optimizer: Optimizer of the branches. By default the same transformation as
      for the backbone, with a state of its own.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    TypeError: If the network is not a `CifarResNet`.
    ValueError: If `backbone` holds the variables of another network.
  """
  frozen = backbone is not None
  branched = _branched(network, frozen_backbone=frozen)
  constants = _method.as_arrays(dict(backbone or {}))

  def init_variables(key, images):
    fresh = capture.init(branched, key, images)
    if frozen:
      _check_backbone(constants, models.backbone_variables(fresh))
    return _without(fresh, constants)

  def apply(variables, batch, constants, *, key):
    logits, branches, updated = _method.forward(
      branched, _joined(variables, constants), batch, taps=branched.branches, key=key
    )
    return _distillation.Outputs(logits, branches), _without(updated, constants)

  def loss(outputs, variables, batch, *, step, key):
    del variables, step, key
    values = _rotations.cross_entropies(outputs, batch, axis_name)
    if frozen:
      del values["labels"]  # constant: the branches do not change the logits
    value, metrics = _method.weighted_loss(values, dict.fromkeys(values, 1.0))
    return value, ({}, metrics)

  def export(variables):
    variables = _joined(variables, constants)
    if keep_branches:
      return {"network": _method.Network(_branched(network), variables)}
    return {"network": _method.Network(network, models.backbone_variables(variables))}

  method = _method.gradient_method(
    init_variables=init_variables,
    loss=_micro_batches.FeatureLoss(apply, loss),
    optimizer=_by_branches(optimizer, params_optimizer),
    export=export,
    constants=constants,
    check=_heads.labels_fit("network", network.num_classes),
    micro_batches=micro_batches,
    axis_name=axis_name,
  )
  return _rotations.on_rotations(method)


@renamed.renamed_arguments(learnt_optimizer="params_optimizer")
def hierarchical_student(
  student: models.CifarResNet,
  teacher: _method.Network,
  optimizer: optax.GradientTransformation,
  *,
  temperature: float = 3.0,
  branches: bool = True,
  params_optimizer: optax.GradientTransformation | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Distillation from the teacher's logits and its branches, in four rotations.

  Args:
    student: Network to train. Its BatchNorm layers need the same `axis_name`. It is
      exported without its branches.
    teacher: Frozen teacher in evaluation mode, made by `hierarchical_teacher`, with as
      many branches as the student has stages.
    optimizer: Optimizer of the student. It sees the student's own parameters.
    temperature: Temperature `T` of the softmax.
    branches: True if the student has branches that learn from the teacher's branches.
      False is the control experiment: knowledge distillation on the same images; the
      teacher needs no branches then.
    params_optimizer: Optimizer of the branches. By default the same transformation as
      for the student, with a state of its own.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    TypeError: If the student is not a `CifarResNet`.
    ValueError: If the teacher has no branches, or other numbers of branches or classes
      than the student; or if the temperature is not positive.
  """
  checks.check_positive("temperature", temperature)
  weights = {"labels": 1.0, "logits": 1.0}
  model, taps = student, ((), ())
  if branches:
    weights["branches"] = 1.0
    model = _branched(student)
    taps = model.branches, _check_branches("teacher", teacher.model, model)

  def terms(student, teacher, batch, params):
    del params
    labels = _rotations.upright_cross_entropy(student.logits, batch, axis_name)
    options = {"temperature": temperature, "axis_name": axis_name}
    return {
      "labels": labels,
      **_rotations.divergences(student, teacher, batch, **options),
    }

  method = _distillation.distillation(
    model,
    teacher,
    _by_branches(optimizer, params_optimizer),
    terms=terms,
    weights=weights,
    taps=taps,
    micro_batches=micro_batches,
    axis_name=axis_name,
  )
  method = _method.also_checked(
    method, _heads.labels_fit("student", student.num_classes)
  )

  def export(state):
    _, variables = method.export(state)["network"]
    return {"network": _method.Network(student, models.backbone_variables(variables))}

  return _rotations.on_rotations(method._replace(export=export) if branches else method)


@renamed.renamed_arguments(learnt_optimizer="params_optimizer")
def hierarchical_mutual(
  networks: Sequence[models.CifarResNet],
  optimizer: optax.GradientTransformation,
  *,
  temperature: float = 3.0,
  params_optimizer: optax.GradientTransformation | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Mutual distillation of two networks from scratch, by logits and branches.

  The method exports "network_1" and "network_2", without branches.

  Args:
    networks: Two networks with equally many stages; they may be equal. Their BatchNorm
      layers need the same `axis_name`.
    optimizer: Optimizer of both networks, with a separate state for each. It sees the
      network's own parameters, without branches.
    temperature: Temperature `T` of the softmax.
    params_optimizer: Optimizer of the branches. By default the same transformation,
      with a state of its own.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    TypeError: If a network is not a `CifarResNet`.
    ValueError: If there are not two networks, if their numbers of stages or classes
      differ, or if the temperature is not positive.
  """
  checks.check_positive("temperature", temperature)
  if len(networks) != 2:
    raise ValueError(f"networks: expected two, got {len(networks)}")
  pair = {f"network_{i}": _branched(x) for i, x in enumerate(networks, start=1)}
  _check_branches("networks", *pair.values())

  def init_variables(key, images):
    fresh = {
      name: capture.init(model, jax.random.fold_in(key, i), images)
      for i, (name, model) in enumerate(pair.items())
    }
    return _by_collection(fresh)

  def apply(variables, batch, constants, *, key):
    del constants
    outputs, updated = [], {}
    for name, model in pair.items():
      logits, branches, updated[name] = _method.forward(
        model, _of_network(variables, name), batch, taps=model.branches, key=key
      )
      outputs.append(_distillation.Outputs(logits, branches))
    return outputs, _by_collection(updated)

  def loss(outputs, variables, batch, *, step, key):
    del variables, step, key
    on_labels = [_rotations.cross_entropies(x, batch, axis_name) for x in outputs]
    options = {"temperature": temperature, "axis_name": axis_name}
    on_each_other = [
      _rotations.divergences(one, lax.stop_gradient(other), batch, **options)
      for one, other in itertools.permutations(outputs)
    ]
    values = {**optax.tree.add(*on_labels), **optax.tree.add(*on_each_other)}
    value, metrics = _method.weighted_loss(values, dict.fromkeys(values, 1.0))
    return value, ({}, metrics)

  def export(variables):
    return {
      name: _method.Network(
        models.backbone(model), models.backbone_variables(_of_network(variables, name))
      )
      for name, model in pair.items()
    }

  method = _method.gradient_method(
    init_variables=init_variables,
    loss=_micro_batches.FeatureLoss(apply, loss),
    optimizer=_optimizers.PerTree(
      dict.fromkeys(pair, _by_branches(optimizer, params_optimizer))
    ),
    export=export,
    check=_heads.labels_fit("networks", networks[0].num_classes),
    micro_batches=micro_batches,
    axis_name=axis_name,
  )
  return _rotations.on_rotations(method)


def _branched(network, **options):
  joint_classes = _rotations.ROTATIONS * network.num_classes
  return models.with_branches(network, joint_classes, **options)


def _by_branches(optimizer, params_optimizer):
  """Optimizer of a backbone and, separately, of its branches."""

  def split(params):
    trees = {"network": {}, "branches": {}}
    for name, tree in params.items():
      trees["branches" if name.startswith("branch_") else "network"][name] = tree
    return trees

  return _optimizers.PerTree(
    {"network": optimizer, "branches": params_optimizer or optimizer},
    split=split,
    join=lambda trees: {**trees["network"], **trees["branches"]},
  )


def _without(variables, others):
  """Variables without the modules that `others` holds, collection by collection."""
  return {
    collection: {k: v for k, v in tree.items() if k not in others.get(collection, {})}
    for collection, tree in variables.items()
  }


def _joined(variables, others):
  return {c: {**others.get(c, {}), **tree} for c, tree in variables.items()}


def _by_collection(networks):
  """Turn `{network: {collection: tree}}` into `{collection: {network: tree}}`."""
  collections = dict.fromkeys(name for tree in networks.values() for name in tree)
  return {c: {name: tree[c] for name, tree in networks.items()} for c in collections}


def _of_network(variables, name):
  return {collection: tree[name] for collection, tree in variables.items()}


def _check_branches(name, teacher, student):
  """Branches of the teacher; ValueError unless they match the student's one to one."""
  there = getattr(teacher, "branches", ())
  if not there:
    raise ValueError(
      f"{name}: expected a network with branches, got {type(teacher).__name__}; train "
      "it with hierarchical_teacher"
    )
  for what, ours, theirs in (
    ("stages and branches", len(student.branches), len(there)),
    ("classes", student.num_classes, teacher.num_classes),
  ):
    if ours != theirs:
      raise ValueError(
        f"{name}: expected as many {what} as the student has, {ours}, got {theirs}"
      )
  return there


def _check_backbone(variables, expected):
  shapes, wanted = (
    jax.tree.map(jnp.shape, traverse_util.flatten_dict(tree, sep="/"))
    for tree in (variables, expected)
  )
  wrong = [
    f"{path}: expected {wanted.get(path)}, got {shapes.get(path)}"
    for path in sorted({**shapes, **wanted})
    if shapes.get(path) != wanted.get(path)
  ]
  if wrong:
    raise ValueError(
      f"backbone: expected variables of the network without branches, but {wrong[0]}"
    )
