"""Command line of the benchmark of growth."""

from experiments.benchmarks.growth import benchmark
from flowkd_jax.cli import launch

if __name__ == "__main__":
  launch.launch(
    benchmark.Config,
    benchmark.configure,
    benchmark.run,
    program="python -m experiments.benchmarks.growth",
  )
