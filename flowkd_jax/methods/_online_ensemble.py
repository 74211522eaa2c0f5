"""Online ensemble compression (Walawalkar, Shen, Savvides, ECCV 2020).

"Online Ensemble Model Compression using Knowledge Distillation",
https://arxiv.org/abs/2011.07449. S students of decreasing width share one base and are
trained together from scratch. The mean of their logits teaches each student (section 3,
summed over students j and stages b):

    L = a sum_j CE(x_j, y) + b sum_b sum_{j > 1} mean (F_b^1 - A_bj F_b^j)^2
        + g sum_j T^2 KL(softmax(t / T), softmax(x_j / T)),     t = mean_j x_j

`x` are logits and `F` feature maps. No gradient flows through the targets `t` and
`F^1`, the maps of the widest student. `A` are 1x1 convolutions to the channels of
`F^1`; they are not part of the exported networks.

As in the authors' code, and unlike the paper, CE and KL are means over the batch, and
KL has the factor `T^2`. All students send their gradient into the base; in the authors'
code this depends on the network. Every student is evaluated with running statistics;
the authors' code normalises by the statistics of the test batch.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import models
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import renamed
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _heads
from flowkd_jax.methods import _method
from flowkd_jax.methods import _micro_batches
from flowkd_jax.methods import _optimizers


@renamed.renamed_arguments(learnt_optimizer="params_optimizer")
def online_ensemble(
  network: models.CifarResNet,
  optimizer: optax.GradientTransformation,
  *,
  num_students: int = 5,
  label_weight: float = 0.7,
  feature_weight: float = 0.15,
  ensemble_weight: float = 0.15,
  temperature: float = 2.0,
  params_optimizer: optax.GradientTransformation | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Online ensemble: students of several widths that are trained together.

  The method exports complete networks: "student_1" (the widest) to "student_S", and
  "ensemble", whose logits are the mean of the students' logits.

  Args:
    network: The widest student. Its BatchNorm layers need the same `axis_name`.
    optimizer: Optimizer of the students. It sees the parameters of the exported network
      "ensemble": "stem" and "student_1" to "student_S".
    num_students: Number of students `S`. The width of student j is the width of
      `network` times `(S - j + 1) / S`, rounded down.
    label_weight: Weight `a` of the students' cross-entropy.
    feature_weight: Weight `b` of the distance of a student's maps to the maps of the
      widest student.
    ensemble_weight: Weight `g` of a student's divergence from the ensemble. The
      authors' settings for CIFAR-10 give all three terms the weight 1. With `b` and `g`
      0 the students share only the base; this is the control experiment.
    temperature: Temperature `T` of the softmax.
    params_optimizer: Optimizer of the 1x1 convolutions. By default the same
      transformation as for the students, with a state of its own.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    TypeError: If the network is not a `CifarResNet`.
    ValueError: If there are fewer than two students or more students than channels, if
      a weight is negative, or if the temperature is not positive.
  """
  ensemble = models.shrinking_ensemble(network, num_students)
  checks.check_positive("temperature", temperature)
  checks.check_positive("label_weight", label_weight)
  weights = {"features": feature_weight, "ensemble": ensemble_weight}
  _distillation.check_weights(weights, label_weight)
  weights["labels"] = label_weight

  def init_variables(key, images):
    variables = capture.init(ensemble, key, images)
    adapters = {}
    if feature_weight:
      adapters = _init_adapters(ensemble, jax.random.fold_in(key, 2))
    params = {"ensemble": variables["params"], "adapters": adapters}
    return {**variables, "params": params}

  def outputs(variables, batch, constants, *, key):
    del constants
    taps = [*ensemble.student_logits, *sum(ensemble.student_maps, ())]
    mean_logits, taps, updated = _method.forward(
      ensemble, _of_ensemble(variables), batch, taps=taps, key=key
    )
    return (mean_logits, taps), updated

  def loss(features, variables, batch, *, step, key):
    del step, key
    mean_logits, taps = features
    options = {"mask": batch["mask"], "axis_name": axis_name}
    students = [taps[name] for name in ensemble.student_logits]
    values = {
      "labels": [losses.cross_entropy(x, batch["label"], **options) for x in students]
    }
    # Skipped at weight 0, so that the control experiment does not pay for the term.
    if feature_weight:
      adapters = variables["params"]["adapters"]
      values["features"] = _distances(ensemble, taps, adapters, options)
    if ensemble_weight:
      # Stopping the gradient changes nothing: the gradients of all students with
      # respect to their mean add up to zero.
      target = lax.stop_gradient(mean_logits)
      values["ensemble"] = [
        losses.knowledge_distillation(x, target, temperature=temperature, **options)
        for x in students
      ]
    values = {name: jnp.stack(terms).sum() for name, terms in values.items()}
    current = {name: weight for name, weight in weights.items() if name in values}
    value, metrics = _method.weighted_loss(values, current)
    return value, ({}, metrics)

  def export(variables):
    variables = _of_ensemble(variables)
    students = {
      f"student_{j}": _method.Network(
        models.student_network(ensemble, j), models.student_variables(variables, j)
      )
      for j in range(1, num_students + 1)
    }
    return {**students, "ensemble": _method.Network(ensemble, variables)}

  return _method.gradient_method(
    init_variables=init_variables,
    loss=_micro_batches.FeatureLoss(outputs, loss),
    optimizer=_optimizers.PerTree(
      {"ensemble": optimizer, "adapters": params_optimizer or optimizer}
    ),
    export=export,
    check=_heads.labels_fit("network", network.num_classes),
    micro_batches=micro_batches,
    axis_name=axis_name,
  )


def _of_ensemble(variables):
  return {**variables, "params": variables["params"]["ensemble"]}


def _adapted(ensemble):
  """Map of the widest student for each map of a narrower student."""
  widest, *others = ensemble.student_maps
  return {
    tap: target for maps in others for tap, target in zip(maps, widest, strict=True)
  }


def _distances(ensemble, taps, adapters, options):
  """Mean squared distance of each adapted map to its target."""
  return [
    losses.hint(
      taps[tap],
      lax.stop_gradient(taps[target]),
      params=adapters[tap],
      reduction="elements",
      **options,
    )
    for tap, target in _adapted(ensemble).items()
  ]


def _init_adapters(ensemble, key):
  widest, *others = ensemble.student_widths
  widths = [pair for student in others for pair in zip(student, widest, strict=True)]
  keys = jax.random.split(key, len(widths))
  return {
    tap: losses.hint_init(tap_key, (width,), (target,))
    for tap, tap_key, (width, target) in zip(
      _adapted(ensemble), keys, widths, strict=True
    )
  }
