"""Runs in which a stage diverges: what goes on, what is kept, how it ends."""

import json

import pytest

from flowkd_jax import report
from flowkd_jax import train
from flowkd_jax.jobs import federated
from flowkd_jax.jobs import information_flow
from flowkd_jax.jobs import report_page
from flowkd_jax.jobs import stages

pytestmark = [pytest.mark.slow, pytest.mark.optimizer]

ARMS = ("fedavg", "fedprox", "fedgen")


def _federated(workdir, **options):
  config = federated.configure(
    workdir=str(workdir),
    network="latent_cnn:3",
    clients_per_round=8,
    client_minimum=2,
    rounds=2,
    local_steps=2,
    generator_steps=2,
    measure=(),
    diagnostics=False,
    **{"stages": ARMS, "fedprox_learning_rate": 1e12, **options},
  )
  federated.run(config)


def _content(workdir):
  return json.loads((workdir / "results.json").read_text())


def test_stages_that_need_nothing_of_a_diverged_one_are_trained(tmp_path, capsys):
  ending = r"1 of 3 stages diverged: FedProx: loss not finite in step 0 .*\. Lower"
  with pytest.raises(train.NonFiniteError, match=ending):
    _federated(tmp_path)
  content = _content(tmp_path)
  assert [network["name"] for network in content["networks"]] == ["fedavg", "fedgen"]
  error = "FedProx: loss not finite in step 0 (epoch 1 of 2)"
  assert content["diverged"] == [
    {"name": "fedprox", "title": "FedProx", "error": error}
  ]
  assert f"Diverged: {error}." in (tmp_path / "results.md").read_text()
  output = capsys.readouterr().out
  assert "diverged: FedProx: loss not finite" in output
  assert "% in the last 2 measured rounds" in output
  # The same command ends alike and repeats nothing else.
  with pytest.raises(train.NonFiniteError, match="1 of 3 stages diverged: FedProx"):
    _federated(tmp_path)
  assert _content(tmp_path) == content
  output = capsys.readouterr().out
  assert "FedAvg: done before" in output
  assert "FedGen: done before" in output
  # The record stays for as long as the stage has no network.
  _federated(tmp_path, stages=("fedavg",))
  assert _content(tmp_path) == content


def test_a_run_without_any_network_leaves_results_that_can_be_read(tmp_path):
  with pytest.raises(train.NonFiniteError, match="^FedProx: loss not finite in step 0"):
    _federated(tmp_path, stages=("fedprox",))
  assert report.read_results(tmp_path) == []
  assert [stage["name"] for stage in _content(tmp_path)["diverged"]] == ["fedprox"]
  report_page.run(report_page.configure(workdirs=(str(tmp_path),)))
  page = (tmp_path / "report.html").read_text()
  assert "Diverged: FedProx: loss not finite in step 0 (epoch 1 of 2)." in page


def test_a_stage_that_succeeds_later_loses_the_record(tmp_path):
  (tmp_path / "fedavg").mkdir()
  record = {"name": "fedavg", "title": "FedAvg", "error": "loss not finite"}
  stages.write_json(tmp_path / "fedavg" / stages.DIVERGED, record)
  assert stages.read_diverged(tmp_path, "fedavg") == record
  _federated(tmp_path, stages=("fedavg",))
  assert stages.read_diverged(tmp_path, "fedavg") is None
  assert "diverged" not in _content(tmp_path)


def test_a_teacher_that_diverges_ends_the_run(tmp_path, capsys):
  config = information_flow.configure(
    dataset="digits",
    workdir=str(tmp_path),
    teacher_network="digits_resnet:2",
    auxiliary_network="digits_cnn:4",
    student_network="digits_cnn:2",
    batch_size=200,
    teacher_epochs="2@1e18",
    diagnostics=False,
    measure=(),
  )
  with pytest.raises(train.NonFiniteError, match="^teacher on labels: "):
    information_flow.run(config)
  assert stages.read_diverged(tmp_path, "teacher") is not None
  assert not (tmp_path / "results.json").exists()
  assert "stage 2 of 5" not in capsys.readouterr().out
