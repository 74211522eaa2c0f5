"""Error of every loss for bfloat16 inputs, against float64 on the same inputs.

    python -m experiments.benchmarks.precision

Prints the table of `experiments/LOSSES.md`: relative error of the value, and 1 - cosine
between the gradients (the worse side; a side that the loss takes no gradient of, or not
at all, counts nothing), for normal features and with a common mean. A gradient comes
back in bfloat16, whose rounding alone costs 1e-6 of cosine.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measurement
from flowkd_jax import losses
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields

ROWS = 128
VECTORS, LOGITS = ((64,), (128,)), ((10,), (10,))
MAPS = (8, 8, 8), (8, 8, 16)
TOKENS = (16, 64), (16, 128)


def _labelled(loss, **options):
  labels = jnp.arange(ROWS, dtype=jnp.int32) % 10
  return lambda student, teacher: loss(student, teacher, labels=labels, **options)


def _flow(authors):
  return lambda s, t: losses.information_flow([s], [t], authors=authors)


def _solution(student, teacher):
  return losses.fsp(*((maps[..., :4], maps[..., 4:8]) for maps in (student, teacher)))


def _of_labels(student, teacher):
  del teacher
  return losses.cross_entropy(student, jnp.arange(ROWS, dtype=jnp.int32) % 10)


def _top_k(student, teacher):
  logs = jax.nn.log_softmax(
    teacher.astype(jnp.promote_types(teacher.dtype, jnp.float32))
  )
  top, ids = jax.lax.top_k(logs, 4)
  return losses.top_k_distillation(student, top, ids=ids)


def _bank(student, teacher):
  key, indices = jax.random.key(0), jnp.arange(ROWS, dtype=jnp.int32)
  return losses.crd_bank(
    student,
    teacher,
    params=losses.crd_init(key, student.shape, teacher.shape),
    bank=losses.crd_bank_init(key, 10 * ROWS),
    indices=indices,
    negatives=losses.crd_negatives(key, indices, 10 * ROWS, number=64),
  )


def _queued(student, teacher):
  key = jax.random.key(0)
  return losses.rrd(
    student,
    teacher,
    params=losses.rrd_init(key, student.shape, teacher.shape),
    queue=losses.rrd_queue_init(key, 10 * ROWS),
  )


def _generated(student, teacher):
  key = jax.random.key(0)
  dtype = jnp.promote_types(student.dtype, jnp.float32)
  params = losses.mgd_init(key, student.shape, teacher.shape)
  params = jax.tree.map(lambda x: x.astype(dtype), params)
  return losses.mgd(student, teacher, params=params, key=key)


def _reviewed(student, teacher):
  sides = [[maps, maps[:, ::2, ::2]] for maps in (student, teacher)]
  shapes = [[maps.shape for maps in taps] for taps in sides]
  dtype = jnp.promote_types(student.dtype, jnp.float32)
  params = losses.review_kd_init(jax.random.key(0), *shapes)
  return losses.review_kd(
    *sides, params=jax.tree.map(lambda x: x.astype(dtype), params)
  )


def _singular(student, teacher):
  return losses.kdsvd(*([maps[..., :4], maps[..., 4:8]] for maps in (student, teacher)))


def _reconstruction(student, teacher):
  params = losses.factor_transfer_init(jax.random.key(0), student.shape, teacher.shape)
  return losses.factor_reconstruction(teacher, params=params)


LOSSES = {
  "attention_transfer": (losses.attention_transfer, MAPS),
  "channel_wise_distillation": (losses.channel_wise_distillation, (MAPS[0], MAPS[0])),
  "conditional_divergence": (losses.conditional_divergence, VECTORS),
  "correlation_congruence": (losses.correlation_congruence, VECTORS),
  "cosine_regression": (losses.cosine_regression, (VECTORS[0], VECTORS[0])),
  "crd": (losses.crd, (VECTORS[0], VECTORS[0])),
  "crd_bank": (_bank, VECTORS),
  "cross_entropy": (_of_labels, LOGITS),
  "decoupled_kd": (_labelled(losses.decoupled_kd), LOGITS),
  "dist": (losses.dist, LOGITS),
  "factor_reconstruction": (_reconstruction, MAPS),
  "factor_transfer": (losses.factor_transfer, MAPS),
  "fsp": (_solution, (MAPS[0], MAPS[0])),
  "gaussian_wasserstein": (losses.gaussian_wasserstein, (MAPS[0], MAPS[0])),
  "hierarchical_context": (losses.hierarchical_context, (MAPS[0], MAPS[0])),
  "hint": (losses.hint, (VECTORS[0], VECTORS[0])),
  "ickd": (losses.ickd, (MAPS[0], MAPS[0])),
  "information_flow": (_flow(authors=False), VECTORS),
  "information_flow, authors": (_flow(authors=True), VECTORS),
  "jensen_shannon": (losses.jensen_shannon, LOGITS),
  "kdsvd": (_singular, (MAPS[0], MAPS[0])),
  "knowledge_distillation": (losses.knowledge_distillation, LOGITS),
  "linear_cka": (losses.linear_cka, VECTORS),
  "mgd": (_generated, MAPS),
  "multi_level_distillation": (losses.multi_level_distillation, LOGITS),
  "normalized_regression": (losses.normalized_regression, (VECTORS[0], VECTORS[0])),
  "nst": (losses.nst, MAPS),
  "patch_relations": (losses.patch_relations, MAPS),
  "pkt": (losses.pkt, VECTORS),
  "quadratic_flow": (
    lambda s, t: _labelled(losses.quadratic_flow, num_classes=10)([s], [t]),
    VECTORS,
  ),
  "rbf_cka": (losses.rbf_cka, VECTORS),
  "review_kd": (_reviewed, MAPS),
  "reverse_kl": (losses.reverse_kl, LOGITS),
  "rkd_angle": (lambda s, t: losses.rkd_angle(s, t, block_size=16), VECTORS),
  "rkd_distance": (losses.rkd_distance, VECTORS),
  "rrd": (_queued, VECTORS),
  "similarity_preserving": (losses.similarity_preserving, VECTORS),
  "skew_kl": (losses.skew_kl, LOGITS),
  "top_k_distillation": (_top_k, LOGITS),
  "transformed_teacher_matching": (losses.transformed_teacher_matching, LOGITS),
  "token_relations": (losses.token_relations, TOKENS),
  "vid": (
    lambda s, t: losses.vid(
      s,
      t,
      params=jax.tree.map(
        lambda x: x.astype(jnp.promote_types(s.dtype, jnp.float32)),
        losses.vid_init(jax.random.key(0), (1, *MAPS[0]), (1, *MAPS[1])),
      ),
    ),
    MAPS,
  ),
}


def errors(loss, shapes, mean: float) -> tuple[float, float]:
  """Relative error of the value, and the greatest 1 - cosine of the gradients."""
  rng = np.random.default_rng(0)
  rounded = [
    jnp.asarray(mean + rng.standard_normal((ROWS, *shape)), jnp.bfloat16)
    for shape in shapes
  ]
  evaluate = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  value, gradients = evaluate(*rounded)
  with jax.enable_x64(True):
    exact = [jnp.asarray(np.asarray(x, np.float64)) for x in rounded]
    expected, references = evaluate(*exact)
  gaps = []
  for gradient, reference in zip(gradients, references, strict=True):
    a, b = (np.asarray(x, np.float64).ravel() for x in (gradient, reference))
    if b.any():
      gaps.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
  return abs(float(value) / float(expected) - 1), float(max(0.0, *gaps))


@dataclasses.dataclass(frozen=True)
class Config(measurement.Config):
  """Settings of the table."""

  losses: tuple[str, ...] = fields.setting(
    tuple(LOSSES), "Losses in the table.", choices=tuple(LOSSES)
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a loss is not known.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Prints the table as markdown."""
  measurement.use_device(config.device)
  environment = measurement.environment()
  print(measurement.heading(environment, f"{ROWS} rows\n"))
  found, rows = {}, []
  for name in config.losses:
    loss, shapes = LOSSES[name]
    found[name] = [*errors(loss, shapes, 0.0), *errors(loss, shapes, 10.0)]
    rows.append([name, *(f"{number:.0e}" for number in found[name])])
  columns = ["value", "gradient", "value, mean 10", "gradient, mean 10"]
  print(measurement.table(["loss", *columns], rows))
  measurement.write(config, environment, {"columns": columns, "errors": found})


if __name__ == "__main__":
  launch.launch(Config, configure, run)
