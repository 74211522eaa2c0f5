"""The federated experiment, small: all arms, rounds to an accuracy, refusals."""

import json

import pytest

from flowkd_jax.jobs import federated

pytestmark = pytest.mark.optimizer

TINY = {
  "network": "latent_cnn:3",
  "clients_per_round": 8,
  "client_minimum": 2,
  "rounds": 3,
  "local_steps": 2,
  "generator_steps": 2,
  "averaged_rounds": 2,
  "measure": (),
  "diagnostics": False,
  "target_accuracy": 0.12,
}


def _configure(workdir, **options):
  return federated.configure(**{"workdir": str(workdir), **TINY, **options})


@pytest.mark.slow
def test_all_arms_start_alike_and_leave_their_results(tmp_path, capsys):
  federated.run(_configure(tmp_path))
  results = json.loads((tmp_path / "results.json").read_text())["networks"]
  assert [result["name"] for result in results] == list(federated.ARMS)
  records = [
    json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  assert len({r["test_accuracy"] for r in records if r["epoch"] == -1}) == 1
  # Averaging and FedGen have the same first round; later on they differ.
  rounds = {(r["stage"], r["epoch"]): r for r in records}
  average, fedgen = ([rounds[arm, n] for n in range(3)] for arm in ("fedavg", "fedgen"))
  rates = [record["learning_rate"] for record in average]
  assert rates == pytest.approx([0.3, 0.297, 0.29403], rel=1e-5)
  assert fedgen[2]["generator/labels"] > 0
  assert "generator/labels" not in rounds["fedgen_untrained", 2]
  for result in results:
    arm = result["name"]
    measured = [rounds[arm, n]["test_accuracy"] for n in range(-1, 3)]
    assert result["averaged_accuracy"] == pytest.approx(sum(measured[2:]) / 2)
    reached = next((n for n, a in enumerate(measured) if a >= 0.12), None)
    assert result["rounds_to_target"] == reached
  output = capsys.readouterr().out
  assert "FedGen with the code's KL term: " in output
  assert "% in the last 2 measured rounds, 12 % " in output
  # A finished run is not repeated, and says the same again.
  before = (tmp_path / "metrics.jsonl").read_text()
  federated.run(_configure(tmp_path))
  assert (tmp_path / "metrics.jsonl").read_text() == before
  assert "FedProx: done before" in capsys.readouterr().out


def test_summary_counts_rounds_up_to_the_first_that_reaches_the_target():
  config = _configure("w", rounds=5, target_accuracy=0.7)
  accuracies = {-1: 0.1, 0: 0.5, 1: 0.75, 3: 0.6, 4: 0.9}
  metrics = [{"epoch": n, "test_accuracy": a} for n, a in accuracies.items()]
  metrics += [{"epoch": 2}]
  found = federated.summarize(metrics, config)
  assert found["rounds_to_target"] == 2
  assert found["averaged_accuracy"] == pytest.approx(0.75)
  config = _configure("w", rounds=5, target_accuracy=0.95)
  assert federated.summarize(metrics, config)["rounds_to_target"] is None


@pytest.mark.parametrize("averaged", [2, 3, 10])
def test_summary_leaves_the_untrained_network_out_of_the_mean(averaged):
  config = _configure("w", rounds=2, averaged_rounds=averaged)
  accuracies = {-1: 0.0, 0: 0.25, 1: 0.75}
  metrics = [{"epoch": n, "test_accuracy": a} for n, a in accuracies.items()]
  found = federated.summarize(metrics, config)
  assert found["averaged_accuracy"] == pytest.approx(0.5)
  assert found["averaged_over"] == 2


def test_summary_is_json_where_nothing_was_measured():
  config = _configure("w", measure_every=0)
  found = federated.summarize([{"epoch": 2, "loss": 1.0}], config)
  assert json.loads(json.dumps(found, allow_nan=False)) == {
    "averaged_accuracy": None,
    "averaged_over": 0,
    "rounds_to_target": None,
  }
  text = federated.describe({**found, "title": "FedAvg", "accuracy": 0.5}, config)
  assert "FedAvg: 50.00 % after the last round; no round was measured" in text


def test_settings_are_those_of_the_data_set_unless_given():
  mnist = federated.configure(dataset="mnist", workdir="w", rounds=7)
  assert (mnist.clients, mnist.clients_per_round, mnist.image_size) == (20, 10, 14)
  assert (mnist.train_split, mnist.rounds) == ("train[:5000]", 7)
  assert federated.configure(workdir="w").clients == 8


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"workdir": ""}, "--workdir: expected a folder"),
    ({"stages": ("fedsgd",)}, "--stages: expected one of fedavg, .* got 'fedsgd'"),
    ({"network": "vgg"}, "--network: .*expected one of"),
    ({"clients_per_round": 9}, "--clients_per_round: expected at most the 8 --clients"),
    ({"alpha": 0.0}, "--alpha: expected above 0, got 0.0"),
    ({"rounds": 0}, r"--rounds: expected a number in \[1, 1000000\], got 0"),
    ({"fedgen_learning_rate": 0.0}, "--fedgen_learning_rate: expected above 0"),
    ({"proximal_weight": -1.0}, "--proximal_weight: expected 0 or above, got -1.0"),
  ],
)
def test_impossible_settings_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    federated.configure(**{"workdir": "w", **options})


@pytest.mark.parametrize(
  ("options", "match"),
  [
    pytest.param(
      {"clients_per_round": 6},
      "--clients_per_round: 8 devices cannot share 6 clients",
      marks=pytest.mark.eight_devices,
    ),
    ({"client_minimum": 200}, "--client_minimum: minimum: 8 clients cannot have 200"),
    (
      {"memory_gib": 0.0, "train_split": "train@0"},
      "--memory_gib: expected a limit that all training images fit into",
    ),
    ({"network": "digits_cnn:2", "stages": ("fedavg",)}, "batch_stats"),
    ({"network": "digits_cnn:2"}, "--network: expected latent_cnn, as FedGen needs"),
  ],
)
def test_what_cannot_work_is_refused_before_training(options, match, tmp_path):
  with pytest.raises(ValueError, match=match):
    federated.run(_configure(tmp_path, **options))
  assert not (tmp_path / "results.json").exists()
