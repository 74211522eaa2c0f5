"""Memory of losses on the logits of a large vocabulary, at once and in blocks.

    python -m experiments.benchmarks.vocabulary
    python -m experiments.benchmarks.vocabulary --words=32000 --dtype=float32

Temporary memory of value and gradient in the student, as the compiler plans it: nothing
is run, so no accelerator is needed. Logits and gradient are not counted. Prints
markdown.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import measurement
from flowkd_jax import losses
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields

# Classes of the teacher that are stored for `top_k_distillation`.
TOP = 64


def _of_labels(student, **options):
  labels = jnp.zeros(student.shape[:-1], jnp.int32)
  return losses.cross_entropy(student, labels, **options)


def _standardized(student, teacher, **options):
  return losses.knowledge_distillation(student, teacher, standardize=True, **options)


def _top_k(student, logs, ids, **options):
  return losses.top_k_distillation(student, logs, ids=ids, **options)


LOSSES: dict[str, Callable[..., jax.Array]] = {
  "cross_entropy": _of_labels,
  "knowledge_distillation": losses.knowledge_distillation,
  "knowledge_distillation, standardized": _standardized,
  "reverse_kl": losses.reverse_kl,
  "skew_kl": losses.skew_kl,
  "jensen_shannon": losses.jensen_shannon,
  "transformed_teacher_matching": losses.transformed_teacher_matching,
  f"top_k_distillation, {TOP} classes": _top_k,
}


@dataclasses.dataclass(frozen=True)
class Config(measurement.Config):
  """Settings of the table."""

  tokens: int = fields.setting(4096, "Number of tokens.", least=1)
  words: int = fields.setting(151936, "Size of the vocabulary.", least=TOP)
  dtype: str = fields.setting(
    "bfloat16", "Type of the logits.", choices=("bfloat16", "float16", "float32")
  )
  block_size: int = fields.setting(
    0, "Words in a block; 0 chooses as the losses do.", least=0
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a number is not positive or a type unknown.
  """
  return fields.configured(Config, given)


def gib(name: str, config: Config, block_size: int | None) -> float:
  """Temporary GiB of value and gradient of one loss."""
  shape = 1, config.tokens, config.words
  logits = jax.ShapeDtypeStruct(shape, jnp.dtype(config.dtype))
  stored = [
    jax.ShapeDtypeStruct((*shape[:-1], TOP), dtype)
    for dtype in (jnp.float32, jnp.int32)
  ]
  arguments = {_of_labels: [logits], _top_k: [logits, *stored]}.get(
    LOSSES[name], [logits, logits]
  )

  def loss(*sides):
    return LOSSES[name](*sides, block_size=block_size)

  compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
  analysis = compiled.memory_analysis()
  if analysis is None:
    raise ValueError("this device does not tell the memory of a program; use the CPU")
  return analysis.temp_size_in_bytes / 2**30


def run(config: Config) -> None:
  """Prints the table as markdown."""
  measurement.use_device(config.device)
  environment = measurement.environment()
  size = f"{config.tokens} tokens, {config.words} words, {config.dtype}"
  print(measurement.heading(environment, size) + "\n")
  found, rows = {}, []
  for name in LOSSES:
    whole, blocks = (
      gib(name, config, size) for size in (config.words, config.block_size or None)
    )
    found[name] = {"whole": whole, "blocks": blocks}
    rows.append([name, f"{whole:.3g}", f"{blocks:.3g}"])
  print(measurement.table(["loss", "at once, GiB", "in blocks, GiB"], rows))
  measurement.write(config, environment, found)


if __name__ == "__main__":
  launch.launch(Config, configure, run)
