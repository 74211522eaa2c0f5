"""A work directory as a job on CIFAR-10 would leave it, with made-up numbers."""

import json
from typing import NamedTuple

import numpy as np
import pytest

CNN_TAPS = ("block_1", "block_2", "block_3", "dense")
RESNET_TAPS = ("stage_1", "stage_2", "stage_3", "stage_4")


class Network(NamedTuple):
  name: str
  title: str
  parameters: int
  accuracy: float | None
  average: float
  epochs: int
  teacher: str | None = None
  taps: tuple[str, ...] = CNN_TAPS


NETWORKS = (
  Network(
    "teacher", "teacher, ResNet-18", 11_173_962, 0.9512, 0.88, 8, None, RESNET_TAPS
  ),
  Network("student_labels", "student, labels only", 15_050, 0.7154, 0.52, 5),
  Network("auxiliary_labels", "auxiliary, labels only", 57_994, 0.7903, 0.58, 8),
  Network("auxiliary", "auxiliary, from teacher", 57_994, None, 0.66, 4, "teacher"),
  Network("student", "student, information flow", 15_050, None, 0.6, 5, "auxiliary"),
)


def make_metrics(networks=NETWORKS, epochs_factor=1):
  rng = np.random.default_rng(0)
  entries = []
  for name, _, _, accuracy, average, epochs, teacher, taps in networks:
    total = epochs_factor * epochs
    for epoch in range(-1, total):
      done = 1 - np.exp(-5 * (epoch + 1) / total)
      entry = {"stage": name, "epoch": epoch, "step": 391 * (epoch + 1)}
      if epoch >= 0:
        entry["loss"] = 2.3 * (1 - 0.9 * done) * np.exp(0.03 * rng.normal())
        entry |= {"learning_rate": 0.001, "seconds": 12.1}
        if accuracy is not None:
          noise = 0.02 * (1 - done) + 0.004
          entry["test_accuracy"] = 0.1 + (accuracy - 0.1) * done + noise * rng.normal()
        if teacher:
          matched = taps if name == "student" else taps[-1:]
          for i, tap in enumerate(matched):
            entry[f"loss/{tap}"] = 0.02 * (1 - 0.8 * done) / (2 + i)
            entry[f"weight/{tap}"] = 1.0 if tap == "dense" else 100 * 0.7**epoch
            entry[f"gradient/{tap}"] = 0.3 * (1 - 0.8 * done) / (1 + i)
            entry[f"cka/{tap}"] = 0.4 + 0.5 * done - 0.05 * i
      entry |= {f"dead/{tap}": 0.02 * i * done for i, tap in enumerate(taps)}
      for kernel, scale in {"cosine": 0.004, "student_t": 0.0006}.items():
        for i, tap in enumerate(taps):
          level = scale * average * 2.2**i / 4
          value = level * (0.35 + 0.65 * done) * np.exp(0.02 * rng.normal())
          entry[f"qmi/{kernel}/{tap}"] = value
      entries.append({key: _plain(value) for key, value in entry.items()})
  return entries


def make_results(networks=NETWORKS):
  return [
    {
      "name": network.name,
      "title": network.title,
      "parameters": network.parameters,
      "accuracy": network.accuracy,
      "centroid": {
        "euclidean": network.average + 0.08,
        "cosine": network.average + 0.0912,
      },
      "retrieval": {
        "euclidean": _retrieval(network.average),
        "cosine": _retrieval(network.average + 0.02),
      },
      "seconds": 605.0 * network.epochs,
      "epochs": network.epochs,
      "teacher": network.teacher,
    }
    for network in networks
  ]


def _retrieval(average):
  recall = np.linspace(0, 1, 21)
  precision = np.clip(average + 0.35 * (0.5 - recall) - 0.3 * recall**8, 0.1, 1)
  ranks = {"1": average + 0.1, "10": average + 0.08, "100": average + 0.0512}
  return {
    "mean_average_precision": average,
    "interpolated_average_precision": average + 0.01,
    "precision_at": ranks,
    "recall_levels": recall.tolist(),
    "precision": precision.tolist(),
    "authors_mean_average_precision": average + 0.0123,
    "authors_precision_at": {"1": 0.99, "100": average + 0.0623},
    "authors_precision": precision.tolist(),
  }


def _plain(value):
  return float(value) if isinstance(value, np.floating) else value


@pytest.fixture
def metrics():
  return make_metrics()


@pytest.fixture
def results():
  return make_results()


@pytest.fixture
def workdir(tmp_path, metrics, results):
  lines = [json.dumps(entry) + "\n" for entry in metrics]
  (tmp_path / "metrics.jsonl").write_text("".join(lines))
  (tmp_path / "results.json").write_text(json.dumps({"networks": results}))
  return tmp_path
