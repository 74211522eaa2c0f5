"""Online ensemble compression (Walawalkar, Shen, Savvides, ECCV 2020).

"Online Ensemble Model Compression using Knowledge Distillation",
https://arxiv.org/abs/2011.07449. S students of shrinking width share one base and are
trained together, from scratch, in one pass; what they know together teaches each of
them (section 3, summed over students j and stages b):

    L = a sum_j CE(x_j, y) + b sum_b sum_{j > 1} mean (F_b^1 - A_bj F_b^j)^2
        + g sum_j T^2 KL(softmax(t / T), softmax(x_j / T)),     t = mean_j x_j

with `x` the logits and `F` the maps; the targets `F^1`, of the widest student, and `t`
are constants to the gradient, and `A`, 1x1 convolutions to as many channels as `F^1`
has, are thrown away after training.

As in the authors' code and not in the paper, CE and KL are means over the batch and KL
has the factor `T^2`. All students send their gradient into the base: of the authors'
networks some do and some do not. Every student is evaluated with running statistics,
where the authors' code normalises by those of the test batch.
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
  """Several widths of a network, trained together, each of use alone.

  Exports "student_1" (the network) to "student_S", each with a base of its own, and
  "ensemble", whose logits are the mean of theirs.

  Args:
    network: The widest student; its `axis_name` is the same.
    optimizer: Updates the students. It sees the parameters of the network that is
      exported as "ensemble": "stem" and "student_1" to "student_S".
    num_students: S; the width of student j is that of the network times
      `(S - j + 1) / S`, rounded down.
    label_weight: a, of the students' cross-entropy.
    feature_weight: b, of the distance of their maps to those of the widest.
    ensemble_weight: g, of their divergence from the ensemble. The authors' settings
      for CIFAR-10 give all three weight 1. With b and g 0 the students share nothing
      but the base: the control experiment.
    temperature: T.
    params_optimizer: Updates the 1x1 convolutions; by default the same transformation
      as for the students, with a state of its own.
    micro_batches: As in `gradient_method`: parts of the batch, to save memory.
    axis_name: Mapped axis over which the batch is split.

  Raises:
    TypeError: If the network is not a `CifarResNet`.
    ValueError: If there are fewer than two students, or more than channels, a weight
      is negative or the temperature not positive.
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
    # A term without weight is not computed.
    if feature_weight:
      adapters = variables["params"]["adapters"]
      values["features"] = _distances(ensemble, taps, adapters, options)
    if ensemble_weight:
      # What the students would send into their mean adds up to zero anyway.
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
  """For every map of a thinner student, that of the widest."""
  widest, *others = ensemble.student_maps
  return {
    tap: target for maps in others for tap, target in zip(maps, widest, strict=True)
  }


def _distances(ensemble, taps, adapters, options):
  """Mean squared distance of every adapted map to its target."""
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
