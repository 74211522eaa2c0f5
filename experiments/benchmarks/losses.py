"""Pairwise losses: speed against PyTorch, and memory in row blocks.

    python -m experiments.benchmarks.losses --what=speed
    python -m experiments.benchmarks.losses --what=memory
    python -m experiments.benchmarks.losses --what=memory --memory_sizes=65536

Forward and backward, gradient in the student, features on the device. Compared programs
take turns, round by round, in one process. The output is markdown. The first command
needs PyTorch, which runs eagerly, compiled, and on a GPU also as CUDA graphs. The last
command measures a batch that would need over 100 GB as one matrix.
"""

import dataclasses
import functools
import resource
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measurement
from flowkd_jax import _files
from flowkd_jax import losses
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import places

WHAT = ("speed", "memory", "all")


def _queue(teacher: jax.Array) -> dict[str, jax.Array]:
  """A queue as long as the batch, which replaces all of it."""
  return {"rows": jnp.zeros_like(teacher), "position": jnp.zeros((), jnp.int32)}


def _top_k(student: jax.Array, teacher: jax.Array, **options: Any) -> jax.Array:
  """The loss over eight classes of the teacher, which it finds itself."""
  logs, ids = jax.lax.top_k(jax.nn.log_softmax(teacher), 8)
  return losses.top_k_distillation(student, logs, ids=ids, **options)


# Losses on logits. Features stand for the logits; no product is timed alone.
LOGITS: dict[str, Callable[..., jax.Array]] = {
  "knowledge_distillation": losses.knowledge_distillation,
  "reverse_kl": losses.reverse_kl,
  "skew_kl": losses.skew_kl,
  "jensen_shannon": losses.jensen_shannon,
  "transformed_teacher_matching": losses.transformed_teacher_matching,
  "top_k_distillation": _top_k,
  "multi_level_distillation": losses.multi_level_distillation,
}
LOSSES: dict[str, Callable[..., jax.Array]] = {
  "information_flow": lambda s, t, **k: losses.information_flow([s], [t], **k),
  "pkt": losses.pkt,
  "similarity_preserving": losses.similarity_preserving,
  "rkd_distance": losses.rkd_distance,
  "rkd_angle": losses.rkd_angle,
  "correlation_congruence": losses.correlation_congruence,
  "linear_cka": losses.linear_cka,
  "rbf_cka": losses.rbf_cka,
  "crd": losses.crd,
  "rrd": lambda s, t, **k: losses.rrd(s, t, params=None, queue=_queue(t), **k),
  # One example, whose tokens are the rows.
  "token_relations": lambda s, t, **k: losses.token_relations(s[None], t[None], **k),
  "patch_relations": lambda s, t, **k: losses.patch_relations(s[None], t[None], **k),
  **LOGITS,
}
EQUAL_WIDTHS = ("crd", "rrd", *LOGITS)
TRIPLES = ("rkd_angle",)
# Matrices of all pairs that PyTorch holds at once, estimated from above.
TORCH_MATRICES, TORCH_CUBES = 30, 6
# In turns: a run as long as that needs no other before it.
LONG_RUN = 10


@dataclasses.dataclass(frozen=True)
class Config(measurement.TorchConfig):
  """Settings of the benchmark."""

  what: str = fields.setting("all", "Tables to measure.", choices=WHAT)
  losses: tuple[str, ...] = fields.setting(
    tuple(LOSSES), "Losses in the table of speed.", choices=tuple(LOSSES)
  )
  sizes: tuple[int, ...] = fields.setting(
    (128, 1024, 4096), "Numbers of rows in the table of speed.", least=2
  )
  student_width: int = fields.setting(
    64, "Width of the student in the table of speed.", least=1
  )
  teacher_width: int = fields.setting(
    128, "Width of the teacher in the table of speed.", least=1
  )
  speed_block_size: int = fields.setting(
    0, "Rows of a block of our losses in the table of speed; 0 chooses.", least=0
  )
  memory_sizes: tuple[int, ...] = fields.setting(
    tuple(1024 * 2**power for power in range(7)),
    "Numbers of rows in the table of memory.",
    least=2,
  )
  memory_width: int = fields.setting(
    128, "Width of student and teacher in the table of memory.", least=1
  )
  block_size: int = fields.setting(
    0, "Rows of a block in the table of memory; 0 chooses.", least=0
  )
  memory_gib: float = fields.setting(
    16.0, "Memory limit in GiB; programs that need more are not run.", least=0
  )
  rounds: int = fields.setting(5, "Turns that each program gets.", least=1)
  turn_seconds: float = fields.setting(
    1.0, "Duration of a turn in seconds; a turn has at least one run.", least=0
  )
  cell_seconds: float = fields.setting(
    120.0, "Seconds after which a table cell gets no further rounds.", least=0
  )
  seed: int = fields.setting(0, "Seed of the features.", least=0)
  output: str = fields.setting(
    "", "File that gets a copy of what is printed.", place=places.NEW_FILE
  )


@dataclasses.dataclass(frozen=True)
class Program:
  """Program to time, or the reason why it is not run.

  Attributes:
    run: One forward and backward pass to its end; None if it is not run.
    gib: Temporary memory.
    why: The reason why it is not run, if that is not its memory.
  """

  run: Callable[[], None] | None
  gib: float
  why: str = ""


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a number is not positive or a name unknown.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Measures and prints."""
  lines = []

  def say(line: str) -> None:
    print(line, flush=True)
    lines.append(line)

  device = measurement.use_device(config.device)
  environment = measurement.environment(torch=config.what != "memory")
  details = f"up to {config.rounds} rounds, median (range)", f"seed {config.seed}"
  say(measurement.heading(environment, *details))
  results = {}
  if config.what != "memory":
    results["speed"] = speed(config, say, device.platform)
  if config.what != "speed":
    results["memory"] = memory(config, say)
  measurement.write(config, environment, results)
  if config.output:
    _files.write_text(config.output, "\n".join(lines) + "\n")


def speed(
  config: Config, say: Callable[[str], None], platform: str
) -> list[dict[str, Any]]:
  """Our losses beside PyTorch's and beside its matrix products alone."""
  measurement.check_torch()
  from experiments.benchmarks import torch_modes

  device = torch_modes.device_for(platform)
  modes = torch_modes.modes(device, config.torch_modes)
  block = config.speed_block_size or None
  say(
    f"\nWidths {config.student_width} and {config.teacher_width}, {_blocks(block)}; "
    "milliseconds; ratios are of the fastest way of PyTorch\n"
  )
  headings = ["loss", "rows", "flowkd_jax", *modes, "products alone"]
  say(_row([*headings, "PyTorch / flowkd_jax", "PyTorch / products"]))
  say(_row(["---"] * (len(headings) + 2)))
  records = []
  for name in config.losses:
    for size in config.sizes:
      programs = _programs(name, size, config, modes, device)
      measured = measure([*programs.values()], config)
      seconds = dict(zip(programs, measured, strict=True))
      cells = [_cell(seconds[each], programs[each], 1000) for each in programs]
      best = min((seconds[mode] for mode in modes), key=median, default=[])
      cells += [_ratio(best, seconds["flowkd_jax"]), _ratio(best, seconds["products"])]
      say(_row([name, str(size), *cells]))
      summary = measurement.summary(seconds)
      records.append({"loss": name, "rows": size, "seconds": summary})
  return records


def _programs(
  name: str, size: int, config: Config, modes: Sequence[str], device: Any
) -> dict[str, Program]:
  """Programs to compare at one size; those that need too much memory are not run."""
  from experiments.benchmarks import torch_losses

  widths = [config.student_width, config.teacher_width]
  if name in EQUAL_WIDTHS:
    widths[1] = widths[0]
  features = _features(size, widths, config.seed)
  gib = _torch_gib(name, size, sum(widths))

  def theirs(make: Callable[..., Callable[[], None]], **options: Any) -> Program:
    if gib > config.memory_gib:
      return Program(None, gib)
    try:
      return Program(make(name, *features, device=device, **options), gib)
    except RuntimeError:
      if options.get("mode") != measurement.GRAPH:
        raise
      return Program(None, gib, "cannot be captured")

  block = config.speed_block_size or None
  return {
    "flowkd_jax": compiled(LOSSES[name], features, block, config.memory_gib),
    **{mode: theirs(torch_losses.program, mode=mode) for mode in modes},
    "products": (
      Program(None, gib, "of logits")
      if name in LOGITS
      else theirs(torch_losses.products)
    ),
  }


def median(values: Sequence[float]) -> float:
  """The median, or infinity for a program that is not run."""
  return statistics.median(values) if values else float("inf")


def _row(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"


def memory(config: Config, say: Callable[[str], None]) -> list[dict[str, Any]]:
  """Information flow at every size, dense and in blocks: memory and seconds."""
  say(
    f"\nInformation flow, cosine and Student-t kernels, width {config.memory_width}, "
    f"{_blocks(config.block_size)}\n"
  )
  say(
    "| rows | dense GiB | blocked GiB | dense s | blocked s | blocked / dense time |\n"
    "|---|---|---|---|---|---|"
  )
  loss, records = LOSSES["information_flow"], []
  for size in config.memory_sizes:
    features = _features(size, [config.memory_width] * 2, config.seed)
    dense, blocked = (
      compiled(loss, features, block, config.memory_gib)
      for block in (size, config.block_size or None)
    )
    seconds = measure([dense, blocked], config)
    cells = [f"{dense.gib:.3g}", f"{blocked.gib:.3g}"]
    cells += [_cell(seconds[0], dense, 1), _cell(seconds[1], blocked, 1)]
    say(_row([str(size), *cells, _ratio(*seconds[::-1])]))
    named: dict[str, list[float]] = {"dense": seconds[0], "blocked": seconds[1]}
    gib = {"dense": dense.gib, "blocked": blocked.gib}
    records.append({"rows": size, "gib": gib, "seconds": measurement.summary(named)})
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  say(f"\nMost memory that the process ever held: {peak:.3g} GiB")
  return records


def compiled(
  loss: Callable[..., jax.Array],
  features: list[np.ndarray],
  block_size: int | None,
  memory_gib: float,
) -> Program:
  """Our loss and its gradient; compiled always, run if its memory allows."""
  function = jax.jit(jax.value_and_grad(functools.partial(loss, block_size=block_size)))
  executable = function.lower(*features).compile()
  analysis = executable.memory_analysis()
  if analysis is None:
    raise ValueError("this device does not tell the memory of a program; use the CPU")
  gib = analysis.temp_size_in_bytes / 2**30
  if gib > memory_gib:
    return Program(None, gib)
  on_device = jax.device_put(features)
  return Program(lambda: jax.block_until_ready(executable(*on_device)), gib)


def measure(programs: Sequence[Program], config: Any) -> list[list[float]]:
  """Median seconds of each round, programs taking turns; none for what is not run."""
  seconds: list[list[float]] = [[] for _ in programs]
  began = time.perf_counter()
  for _ in range(config.rounds):
    for times, program in zip(seconds, programs, strict=True):
      if program.run is not None:
        times.append(_turn(program.run, config.turn_seconds))
    if time.perf_counter() - began > config.cell_seconds:
      break
  return seconds


def _turn(program: Callable[[], None], turn_seconds: float) -> float:
  """Median of the runs of a turn.

  The first is not counted, as it pays for what the program before it left in caches and
  threads, unless it takes so long that this is lost in it.
  """
  first = measurement.timed(program)
  if first > LONG_RUN * turn_seconds:
    return first
  times = [measurement.timed(program)]
  while sum(times) < turn_seconds:
    times.append(measurement.timed(program))
  return statistics.median(times)


def _features(size: int, widths: list[int], seed: int) -> list[np.ndarray]:
  rng = np.random.default_rng(seed)
  return [rng.standard_normal((size, width), np.float32) for width in widths]


def _torch_gib(name: str, size: int, width: int) -> float:
  floats = TORCH_MATRICES * size**2
  if name in TRIPLES:
    floats += TORCH_CUBES * size**3 + 3 * width * size**2
  return 4 * floats / 2**30


def _cell(seconds: list[float], program: Program, factor: float) -> str:
  if not seconds:
    return f"not run: {program.why or f'{program.gib:.0f} GiB'}"
  return measurement.spread(seconds, factor=factor)


def _blocks(size: int | None) -> str:
  return f"blocks of {size} rows" if size else "blocks as the losses choose"


def _ratio(numerators: list[float], denominators: list[float]) -> str:
  """Round by round; empty if one of the two is not run."""
  return measurement.spread(measurement.ratios(numerators, denominators))


if __name__ == "__main__":
  launch.launch(Config, configure, run)
