"""One update of a distilling method, and the outputs that it compares."""

import jax
import optax

from flowkd_jax import capture


def first_step(make, network, teacher, batch, **options):
  """The state before, the state after and the metrics of one update."""
  method = make(network(), teacher, optax.sgd(0.1), axis_name=None, **options)
  state = method.init(jax.random.key(0), batch["image"])
  after, metrics = jax.jit(method.update)(state, batch, method.constants)
  return method, state, after, metrics


def student_outputs(network, state, batch):
  variables = {"params": state.params["student"], **state.collections}
  (logits, taps), _ = capture.apply_with_taps(
    network(),
    variables,
    batch["image"],
    train=True,
    mask=batch["mask"],
    mutable=["batch_stats"],
  )
  return logits, taps
