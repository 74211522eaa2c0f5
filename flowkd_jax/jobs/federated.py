"""Federated learning from unevenly shared data: FedAvg, FedProx, FedGen.

Zhu, Hong, Zhou, "Data-Free Knowledge Distillation for Heterogeneous Federated
Learning", ICML 2021, https://arxiv.org/abs/2105.10056. The training images are shared
out to clients whose labels differ (--alpha); a network is trained in rounds, in each of
which some clients train it on their own images and the server averages. Arms, one stage
each, from the same initial weights:

  fedavg            averaging
  fedprox           with a term that keeps clients near the global network
  fedgen            with a generator of latents, distilled from the clients (the paper)
  fedgen_kl         and the KL term that is in the published code only
  fedgen_untrained  the control: a generator that is never trained

    flowkd train federated --dataset=digits --workdir=runs/federated
    flowkd train federated --dataset=mnist --data_dir=D --workdir=W

An epoch is a round. Terms added to a loss act like a larger learning rate, and in
published comparisons that may be all they do: every arm has a learning rate of its own,
to be tuned for each before their accuracy is compared (with --train_split=train[:90%]
--test_split=train[90%:], say). At a common learning rate compare how many rounds they
take to an accuracy (--target_accuracy). Both are in results.json.

Run the same command again after any interruption and it goes on where it was. The work
directory holds config.json, metrics.jsonl, tensorboard/, results.json, results.md,
pictures/, and for each stage its network.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import report
from flowkd_jax import train
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import optimizers
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

__all__ = [
  "ARMS",
  "PRESETS",
  "TITLES",
  "Config",
  "configure",
  "describe",
  "run",
  "summarize",
]

ARMS = ("fedavg", "fedprox", "fedgen", "fedgen_kl", "fedgen_untrained")
TITLES = {
  "fedavg": "FedAvg",
  "fedprox": "FedProx",
  "fedgen": "FedGen",
  "fedgen_kl": "FedGen with the code's KL term",
  "fedgen_untrained": "FedGen, generator untrained",
}


@dataclasses.dataclass(frozen=True)
class Config(settings.AdamSettings):
  """Settings. Learning rates are those tuned for the preset of mnist."""

  stages: tuple[str, ...] = fields.setting(
    ARMS, "Arms to run, one stage each.", choices=ARMS
  )
  network: str = fields.setting(
    "latent_cnn",
    f"Network of server and clients: {networks.DESCRIPTION}. FedGen needs latent_cnn.",
  )
  clients: int = fields.setting(
    20, "Number of clients that share the training images.", least=1
  )
  alpha: float = fields.setting(
    0.1,
    "Concentration of the Dirichlet distribution of labels over clients; "
    "small values are uneven.",
    above=0,
  )
  client_minimum: int = fields.setting(
    10, "Minimum number of images of every client.", least=1
  )
  clients_per_round: int = fields.setting(
    10, "Number of clients that take part in a round.", least=1
  )
  rounds: int = fields.setting(
    100, "Number of communication rounds.", least=1, most=10**6
  )
  local_steps: int = fields.setting(20, "SGD steps of a client in a round.", least=1)
  batch_size: int = fields.setting(32, "Images of a client's SGD step.", least=1)
  fedavg_learning_rate: float = fields.setting(
    0.3, "Learning rate of the clients' SGD in the arm fedavg.", above=0
  )
  fedprox_learning_rate: float = fields.setting(
    0.3, "Learning rate of the clients' SGD in the arm fedprox.", above=0
  )
  fedgen_learning_rate: float = fields.setting(
    0.2, "Learning rate of the clients' SGD in the arm fedgen.", above=0
  )
  fedgen_kl_learning_rate: float = fields.setting(
    0.05, "Learning rate of the clients' SGD in the arm fedgen_kl.", above=0
  )
  fedgen_untrained_learning_rate: float = fields.setting(
    0.2, "Learning rate of the clients' SGD in the arm fedgen_untrained.", above=0
  )
  round_decay: float = fields.setting(
    0.99, "Factor of the clients' learning rate per round.", above=0, most=1
  )
  proximal_weight: float = fields.setting(
    0.01, "Weight of the proximal term in the arm fedprox; the paper's mu.", least=0
  )
  latent_weight: float = fields.setting(
    10.0,
    "Weight of generated latents in a client's loss, and of the KL term in "
    "the arm fedgen_kl.",
    least=0,
  )
  latent_decay: float = fields.setting(
    0.98, "Factor per round of the weight of generated latents.", above=0, most=1
  )
  generator_steps: int = fields.setting(
    50, "Updates of the generator in a round.", least=1
  )
  generator_learning_rate: float = fields.setting(
    3e-4, "Learning rate of the generator's Adam.", above=0
  )
  target_accuracy: float = fields.setting(
    0.9,
    "Test accuracy, as a fraction of 1, to which rounds are counted.",
    least=0,
    most=1,
  )
  averaged_rounds: int = fields.setting(
    10,
    "Number of last rounds over which test accuracy is averaged; only "
    "measured rounds count (--measure_every).",
    least=1,
  )
  flow_examples: int = fields.setting(
    200, "Number of training examples on which information flow is measured.", least=1
  )

  @property
  def shared_by_devices(self) -> tuple[str, int, str]:
    """Devices share the clients of a round."""
    return "clients_per_round", self.clients_per_round, "clients"


# The smallest honest experiment on MNIST, and one that takes seconds.
PRESETS: dict[str, dict[str, Any]] = {
  "mnist": {
    "train_split": "train[:5000]",
    "test_split": "test[:5000]",
    "image_size": 14,
    "flip": False,
    "crop_padding": 0,
  },
  "digits": {
    "clients": 8,
    "alpha": 0.3,
    "clients_per_round": 4,
    "rounds": 30,
    "local_steps": 10,
    "batch_size": 16,
    "flip": False,
    "crop_padding": 0,
  },
}


def configure(**given: Any) -> Config:
  """The settings for the data set, and then those that are given.

  Raises:
    ValueError: If a setting cannot be right; names it, what was expected, what came.
  """
  preset = PRESETS.get(given.get("dataset", Config.dataset), {})
  config = fields.configured(Config, preset, given)
  settings.check_settings(config, ("network",))
  fedgen = any(arm.startswith("fedgen") for arm in config.stages)
  if fedgen and not config.network.startswith("latent_cnn"):
    raise ValueError(
      f"--network: FedGen needs a network with a latent, latent_cnn, got "
      f"{config.network}; or leave its arms out of --stages"
    )
  if config.clients_per_round > config.clients:
    raise ValueError(
      f"--clients_per_round: expected at most the {config.clients} --clients, got "
      f"{config.clients_per_round}"
    )
  return config


def run(config: Config) -> None:
  """Runs the experiment; everything it leaves is in `config.workdir`."""
  job_run.run_stages(config, lambda runner: _Stages(config, runner).selected(), ARMS)
  if not train.is_first_process():
    return  # The first has the results, perhaps not written yet.
  for result in report.read_results(config.workdir):
    print(describe(result, config))


def describe(result: Mapping[str, Any], config: Config) -> str:
  """A sentence about the test accuracy of an arm, for the terminal."""
  if result["averaged_accuracy"] is None:
    return (
      f"{result['title']}: {100 * result['accuracy']:.2f} % after the last round; no "
      f"round was measured (--measure_every={config.measure_every})"
    )
  rounds = result["rounds_to_target"]
  when = "not reached" if rounds is None else f"after {rounds} rounds"
  # Results of version 0.1 do not say how many rounds were measured.
  over = result.get("averaged_over", "")
  measured = " ".join(filter(None, ("last", str(over), "measured rounds")))
  return (
    f"{result['title']}: {100 * result['averaged_accuracy']:.2f} % in the {measured}, "
    f"{100 * config.target_accuracy:g} % {when}"
  )


def summarize(metrics: report.MetricLog, config: Config) -> dict[str, Any]:
  """Mean test accuracy of the last rounds of an arm, and rounds to the target accuracy.

  Returns:
    "averaged_accuracy", the mean over the measured rounds among the last
    `averaged_rounds`, None if none was measured; "averaged_over", the number of these
    rounds; "rounds_to_target", None if the target was not reached, 0 if the untrained
    network reaches it.
  """
  accuracies = {
    entry["epoch"] + 1: entry["test_accuracy"]
    for entry in metrics
    if "test_accuracy" in entry
  }
  # Round 0 is the network before training: it belongs to no mean.
  first = max(config.rounds - config.averaged_rounds, 0)
  reached = [n for n, value in accuracies.items() if value >= config.target_accuracy]
  last = [value for n, value in accuracies.items() if n > first]
  return {
    "averaged_accuracy": float(np.mean(last)) if last else None,
    "averaged_over": len(last),
    "rounds_to_target": min(reached, default=None),
  }


class _Stages:
  """Stages of one configuration, by name."""

  def __init__(self, config: Config, runner: stages.StageRunner):
    self.config = config
    images = runner.datasets.training
    if not isinstance(images, data.MemoryBatches):
      raise ValueError(
        "--memory_gib: clients read their images in any order, so that they must fit "
        f"into memory, which {config.memory_gib} GiB do not allow; raise it, or choose "
        "smaller images or a part of them by --image_size and --train_split"
      )
    self.model = settings.network(config, config.network, images.num_classes)
    self.training = data.FederatedBatches(
      images,
      clients=_clients(config, images.source.labels),
      clients_per_round=config.clients_per_round,
      local_steps=config.local_steps,
      minibatch_size=config.batch_size,
    )

  def selected(self) -> list[stages.Stage]:
    return [self._stage(arm) for arm in self.config.stages]

  def _stage(self, arm):
    return stages.Stage(
      arm,
      TITLES[arm],
      lambda: self._method(arm),
      self.config.rounds,
      init_name="network",
      training=self.training,
      summarize=lambda metrics: summarize(metrics, self.config),
    )

  def _method(self, arm):
    config = self.config
    rate = getattr(config, f"{arm}_learning_rate")
    base = optimizers.learning_rate(rate, config.rounds, config.learning_rate_decay)
    return methods.federated_averaging(
      self.model,
      lambda number: base(number) * config.round_decay**number,
      proximal_weight=config.proximal_weight if arm == "fedprox" else 0.0,
      generator=self._generator(arm) if arm.startswith("fedgen") else None,
      axis_name=config.axis_name,
    )

  def _generator(self, arm):
    config = self.config
    weight = optax.exponential_decay(config.latent_weight, 1, config.latent_decay)
    # As in the published code: Adam with L2, whose rate falls from round to round.
    rate = optax.exponential_decay(
      config.generator_learning_rate, config.generator_steps, 0.98, staircase=True
    )
    optimizer = optax.chain(
      optax.add_decayed_weights(1e-2), optax.adam(rate, b2=config.adam_beta2)
    )
    return methods.GeneratorOptions(
      optimizer=optimizer,
      latent_weight=weight,
      kl_weight=weight if arm == "fedgen_kl" else 0.0,
      steps=0 if arm == "fedgen_untrained" else config.generator_steps,
      batch_size=config.batch_size,
    )


def _clients(config, labels):
  try:
    return data.dirichlet_split(
      labels,
      config.clients,
      config.alpha,
      seed=config.seed,
      minimum=config.client_minimum,
    )
  except ValueError as error:
    raise ValueError(f"--clients, --alpha, --client_minimum: {error}") from None
