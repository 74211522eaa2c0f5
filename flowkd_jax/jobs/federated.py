"""Federated learning on unevenly distributed data: FedAvg, FedProx, FedGen.

Zhu, Hong, Zhou, "Data-Free Knowledge Distillation for Heterogeneous Federated
Learning", ICML 2021, https://arxiv.org/abs/2105.10056. The training images are
distributed to clients with different labels (--alpha). In each round, some clients
train the network on their own images, and the server averages their weights. There are
five arms, one stage each, with the same initial weights:

  fedavg            averaging of the clients' weights
  fedprox           FedAvg, with a loss term that keeps clients near the global network
  fedgen            FedAvg, with a generator of latents distilled from the clients
  fedgen_kl         FedGen, with the KL term of the published code
  fedgen_untrained  control: FedGen with a generator that is never trained

    flowkd train federated --dataset=digits --workdir=runs/federated
    flowkd train federated --dataset=mnist --data_dir=D --workdir=W

An epoch is a round. Additional loss terms act like a larger learning rate; in published
comparisons this may be their only effect. Each arm therefore has its own learning rate.
Tune it for each arm before you compare accuracies, for example with
--train_split=train[:90%] --test_split=train[90%:]. With a common learning rate, compare
the numbers of rounds until a test accuracy is reached (--target_accuracy). results.json
has both.

To resume an interrupted run, repeat the command. The work directory holds config.json,
metrics.jsonl, tensorboard/, results.json, results.md, pictures/, and the network of
each stage.
"""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
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
  "select",
  "summarize",
]

ARMS = ("fedavg", "fedprox", "fedgen", "fedgen_kl", "fedgen_untrained")
_FEDGEN = ARMS[2:]
TITLES = {
  "fedavg": "FedAvg",
  "fedprox": "FedProx",
  "fedgen": "FedGen",
  "fedgen_kl": "FedGen with the code's KL term",
  "fedgen_untrained": "FedGen, generator untrained",
}


@dataclasses.dataclass(frozen=True)
class Config(settings.AdamSettings):
  """Settings. The learning rates were tuned for the preset of mnist."""

  stages: tuple[str, ...] = fields.setting(
    ARMS, "Arms to run, one stage each.", choices=ARMS
  )
  network: str = fields.setting(
    "latent_cnn",
    "Network of server and clients; the arms fedgen, fedgen_kl and fedgen_untrained "
    f"need latent_cnn. Networks: {networks.DESCRIPTION}.",
  )
  clients: int = fields.setting(
    20, "Number of clients to which the training images are distributed.", least=1
  )
  alpha: float = fields.setting(
    0.1,
    "Concentration of the Dirichlet distribution of labels over clients; smaller "
    "values distribute labels less evenly.",
    above=0,
  )
  client_minimum: int = fields.setting(
    10, "Minimum number of images per client.", least=1
  )
  clients_per_round: int = fields.setting(
    10, "Number of clients that take part in a round.", least=1
  )
  rounds: int = fields.setting(
    100, "Number of communication rounds.", least=1, most=10**6
  )
  local_steps: int = fields.setting(
    20, "Number of SGD steps of each client in a round.", least=1
  )
  batch_size: int = fields.setting(
    32, "Number of images in an SGD step of a client.", least=1
  )
  fedavg_learning_rate: float = fields.setting(
    0.3,
    "Learning rate of the clients' SGD in the arm fedavg.",
    above=0,
    stages=("fedavg",),
  )
  fedprox_learning_rate: float = fields.setting(
    0.3,
    "Learning rate of the clients' SGD in the arm fedprox.",
    above=0,
    stages=("fedprox",),
  )
  fedgen_learning_rate: float = fields.setting(
    0.2,
    "Learning rate of the clients' SGD in the arm fedgen.",
    above=0,
    stages=("fedgen",),
  )
  fedgen_kl_learning_rate: float = fields.setting(
    0.05,
    "Learning rate of the clients' SGD in the arm fedgen_kl.",
    above=0,
    stages=("fedgen_kl",),
  )
  fedgen_untrained_learning_rate: float = fields.setting(
    0.2,
    "Learning rate of the clients' SGD in the arm fedgen_untrained.",
    above=0,
    stages=("fedgen_untrained",),
  )
  round_decay: float = fields.setting(
    0.99,
    "Factor by which the clients' learning rate changes per round.",
    above=0,
    most=1,
  )
  proximal_weight: float = fields.setting(
    0.01,
    "Weight of the proximal term in the arm fedprox; mu in the paper.",
    least=0,
    stages=("fedprox",),
  )
  latent_weight: float = fields.setting(
    10.0,
    "Weight of generated latents in a client's loss; in the arm fedgen_kl also the "
    "weight of the KL term.",
    least=0,
    stages=_FEDGEN,
  )
  latent_decay: float = fields.setting(
    0.98,
    "Factor by which the weight of generated latents changes per round.",
    above=0,
    most=1,
    stages=_FEDGEN,
  )
  generator_steps: int = fields.setting(
    50, "Number of updates of the generator in a round.", least=1, stages=_FEDGEN[:2]
  )
  generator_learning_rate: float = fields.setting(
    3e-4, "Learning rate of Adam for the generator.", above=0, stages=_FEDGEN[:2]
  )
  target_accuracy: float = fields.setting(
    0.9,
    "Test accuracy, as a fraction of 1; results say after how many rounds it is "
    "reached.",
    least=0,
    most=1,
  )
  averaged_rounds: int = fields.setting(
    10,
    "Number of final rounds over which the test accuracy is averaged. Only measured "
    "rounds count (--measure_every).",
    least=1,
  )
  flow_examples: int = fields.setting(
    200, "Number of training examples on which information flow is measured.", least=1
  )

  @property
  def shared_by_devices(self) -> tuple[str, int, str]:
    """Devices share the clients of a round."""
    return "clients_per_round", self.clients_per_round, "clients"


# A small but meaningful experiment on MNIST, and a trial run that takes seconds.
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
  """Make a configuration from the data set's preset and the given settings.

  Raises:
    ValueError: If a setting is wrong. The message names the setting, the expected
      values and the value given.
  """
  preset = PRESETS.get(given.get("dataset", Config.dataset), {})
  config = fields.configured(Config, preset, given)
  settings.check_settings(config, ("network",))
  fedgen = any(arm.startswith("fedgen") for arm in config.stages)
  if fedgen and not config.network.startswith("latent_cnn"):
    raise ValueError(
      f"--network: expected latent_cnn, as FedGen needs a network with a latent, got "
      f"{config.network}; use latent_cnn, or leave the fedgen arms out of --stages"
    )
  if config.clients_per_round > config.clients:
    raise ValueError(
      f"--clients_per_round: expected at most the {config.clients} --clients, got "
      f"{config.clients_per_round}"
    )
  return config


def select(
  config: Config, runner: stages.StageRunner
) -> Sequence[stages.Stage | stages.Imported]:
  """Stages that the job runs with these settings, in order."""
  return _Stages(config, runner).selected()


def run(config: Config) -> None:
  """Run the job; all its files are in `config.workdir`."""
  try:
    job_run.run_stages(config, select, ARMS)
  except train.NonFiniteError:  # the other arms are finished
    _print_results(config)
    raise
  _print_results(config)


def _print_results(config):
  if not train.is_first_process():
    return  # Only the first process writes the results.
  for result in report.read_results(config.workdir):
    print(describe(result, config))


def describe(result: Mapping[str, Any], config: Config) -> str:
  """Sentence about the test accuracy of an arm, for the terminal."""
  if result["averaged_accuracy"] is None:
    return (
      f"{result['title']}: {100 * result['accuracy']:.2f} % after the last round; no "
      f"round was measured (--measure_every={config.measure_every})"
    )
  rounds = result["rounds_to_target"]
  when = "not reached" if rounds is None else f"after {rounds} rounds"
  # Results of version 0.1 lack the number of measured rounds.
  over = result.get("averaged_over", "")
  measured = " ".join(filter(None, ("last", str(over), "measured rounds")))
  return (
    f"{result['title']}: {100 * result['averaged_accuracy']:.2f} % in the {measured}, "
    f"{100 * config.target_accuracy:g} % {when}"
  )


def summarize(metrics: report.MetricLog, config: Config) -> dict[str, Any]:
  """Mean test accuracy of the final rounds of an arm, and rounds to the target.

  Returns:
    A dictionary with three entries. "averaged_accuracy" is the mean over the measured
    rounds among the last `averaged_rounds` rounds, or None if no round was measured.
    "averaged_over" is the number of measured rounds. "rounds_to_target" is the number
    of rounds until the target was reached. It is 0 if the untrained network reaches the
    target, and None if the target was not reached.
  """
  accuracies = {
    entry["epoch"] + 1: entry["test_accuracy"]
    for entry in metrics
    if "test_accuracy" in entry
  }
  # Round 0 is the network before training and not part of the mean.
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
        "--memory_gib: expected a limit that all training images fit into, as clients "
        f"read them in random order, got {config.memory_gib}; raise it, or use smaller "
        "or fewer images by --image_size and --train_split"
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
    # As in the published code: Adam with L2 and a learning rate that decays per round.
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
