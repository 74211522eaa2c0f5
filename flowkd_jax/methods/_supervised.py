"""Supervised training with cross-entropy, for teachers and baseline students."""

import optax

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax._numerics import label_rule
from flowkd_jax.methods import _heads
from flowkd_jax.methods import _method
from flowkd_jax.methods import _micro_batches
from flowkd_jax.parallel import global_mean


def supervised(
  model: capture.AnyModel,
  optimizer: optax.GradientTransformation,
  *,
  label_smoothing: float = 0.0,
  initial: _method.Variables | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Training by cross-entropy; the metric "accuracy" counts rows with a label.

  Args:
    model: Network to train. Its BatchNorm layers need the same `axis_name`.
    optimizer: Optimizer of the network.
    label_smoothing: Share of the target that is spread evenly over all classes.
    initial: Initial variables of the student; fresh ones by default.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.
  """

  def init_variables(key, images):
    return capture.init(model, key, images) if initial is None else initial

  def apply(variables, batch, constants, *, key):
    del constants
    logits, _, updated = _method.forward(model, variables, batch, key=key)
    return logits, updated

  def loss(logits, variables, batch, *, step, key):
    del variables, step, key
    labels, mask = batch["label"], batch["mask"]
    value = losses.cross_entropy(
      logits, labels, smoothing=label_smoothing, mask=mask, axis_name=axis_name
    )
    read = label_rule.read_labels(
      labels, logits.shape[1], shape=mask.shape, mask=mask, name="label"
    )
    correct = (logits.argmax(axis=1) == read.classes).astype(value.dtype)
    accuracy = global_mean(read.invalidate(correct), read.labelled, axis_name)
    return value, ({}, {"accuracy": accuracy})

  return _method.gradient_method(
    init_variables=init_variables,
    loss=_micro_batches.FeatureLoss(apply, loss),
    optimizer=optimizer,
    export=lambda variables: {"network": _method.Network(model, variables)},
    check=_heads.classifier_fits("model", model, initial),
    micro_batches=micro_batches,
    axis_name=axis_name,
  )
