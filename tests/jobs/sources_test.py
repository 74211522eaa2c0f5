"""Data that does not fit the settings is refused before it is decoded."""

import pytest

from flowkd_jax import data
from flowkd_jax.jobs import domain_generalization
from flowkd_jax.jobs import environment
from flowkd_jax.jobs import federated
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import similarity_preserving
from flowkd_jax.jobs import sources


def _open(**options):
  given = {"dataset": "digits", "workdir": "W", **options}
  return sources.open_sources(similarity_preserving.configure(**given))


@pytest.fixture(autouse=True)
def _nothing_is_decoded(monkeypatch):
  monkeypatch.setattr(data, "load", None)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"dataset": "x/y/z"}, "--dataset: expected DATASET, DATASET/CONFIG or either"),
    ({"dataset": "[b]"}, "--dataset: expected DATASET, DATASET/CONFIG or either"),
    ({"train_split": "nope"}, "--train_split: split"),
    ({"test_split": "test[:200%]"}, "--test_split: split"),
    ({"validation_split": "train["}, "--validation_split: split"),
    ({"train_split": "train[:0]"}, "--train_split: digits"),
    ({"test_split": "test@x"}, "--test_split: split"),
    ({"image_key": "image"}, "--image_key: expected none for 'digits'"),
    pytest.param(
      {"test_split": "test[:5]"},
      r"--test_split: split test\[:5\]: .* the 8 devices",
      marks=pytest.mark.eight_devices,
    ),
    ({"batch_size": 1008}, "--batch_size: expected at most the 1000 images of"),
    pytest.param(
      {"batch_size": 64, "micro_batches": 9},
      "--micro_batches: expected at most 8, the rows that each device has of "
      "--batch_size=64, got 9",
      marks=pytest.mark.eight_devices,
    ),
    ({"crop_padding": 8}, "--crop_padding: expected less than the 8 pixels"),
    ({"image_size": 3}, "--teacher_network: .* needs at least 4"),
    (
      {"teacher_network": "digits_cnn:999999"},
      "--teacher_network: expected a network that fits into the .* GiB of a device",
    ),
    (
      {"student_network": "digits_cnn:99999999999999999999"},
      "--student_network: .* cannot be applied to images of shape",
    ),
  ],
)
def test_data_and_networks_that_do_not_fit_are_refused(options, match, monkeypatch):
  monkeypatch.setattr(environment, "device_bytes", lambda: 2**36)
  with pytest.raises(ValueError, match=match):
    _open(**options)


def test_colors_of_grey_images_are_refused():
  config = domain_generalization.configure(workdir="W", color_jitter=0.3)
  match = r"--color_jitter, --grayscale: expected images with 3 channels .*, got 1 of"
  with pytest.raises(ValueError, match=match):
    sources.open_sources(config)


@pytest.mark.parametrize(
  "options",
  [
    {"test_split": "train"},
    {"test_split": "train[90%:]"},
    {"test_split": "train[-1:]", "train_split": "train[10:]"},
    {"test_split": "test+train[:1]"},
    {"test_split": "all"},
    {"test_split": "train@15"},
    {"validation_split": "test[:50%]"},
    {"validation_split": "train[500:]", "train_split": "train[:501]"},
  ],
)
def test_splits_that_share_images_are_refused(options):
  with pytest.raises(ValueError, match="_split: expected other images than those"):
    _open(**options)


def test_splits_without_shared_images_are_taken():
  opened = _open(
    train_split="train[:50%]", test_split="test", validation_split="train[500:]"
  )
  assert [source.num_examples for source in opened.values()] == [500, 797, 500]


def test_only_networks_of_the_stages_are_tried():
  config = flow_settings.configure(
    workdir="W", stages=("teacher",), dataset="digits", student_network="cnn1"
  )
  assert config.used_networks == ("teacher_network",)
  sources.open_sources(config)
  config = flow_settings.configure(
    workdir="W", stages=("student_kd",), dataset="digits", student_network="cnn1"
  )
  with pytest.raises(ValueError, match="--student_network: .* needs at least 22"):
    sources.open_sources(config)


def test_batches_of_clients_are_checked_by_their_flag():
  config = federated.configure(
    dataset="digits", workdir="W", batch_size=1001, clients_per_round=8
  )
  with pytest.raises(ValueError, match="--batch_size: expected at most the 1000"):
    sources.open_sources(config)
