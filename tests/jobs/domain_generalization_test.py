"""The experiment on unseen domains, small: domains, all stages, refusals."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from flowkd_jax import data
from flowkd_jax import train
from flowkd_jax.jobs import domain_generalization
from flowkd_jax.jobs import job_run

pytestmark = pytest.mark.optimizer

TINY = {
  "teacher_network": "digits_cnn:3",
  "student_network": "digits_cnn:2",
  "teacher_epochs": "1@1e-3",
  "student_epochs": "2@1e-3",
  "rotations": ("0", "30", "60"),
  "domain_images": 40,
  "measure": (),
  "diagnostics": False,
  "batch_size": 24,
}
DOMAINS = ("photo", "cartoon", "sketch")


def _configure(workdir, **options):
  given = {"workdir": str(workdir), **TINY, "confidence": 0.3, **options}
  if "dataset" in options:  # whose domains are splits
    del given["rotations"], given["domain_images"]
  return domain_generalization.configure(**given)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A data set whose splits are domains of 20 images, in two classes."""
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()

  class Domains(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(names=("dog", "house")),
      }
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("image", "label"),
      )

    def _split_generators(self, dl_manager):
      return {name: self._examples(i) for i, name in enumerate(DOMAINS)}

    def _generate_examples(self):
      raise NotImplementedError

    def _examples(self, domain):
      rng = np.random.default_rng(domain)
      for index in range(20):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        file.seek(0)
        yield index, {"image": file, "label": index % 2}

  # A builder within a package would be looked up as a package resource.
  Domains.__module__ = "domains"
  folder = tmp_path_factory.mktemp("domains")
  Domains(data_dir=folder, file_format="array_record").download_and_prepare()
  return str(folder)


def _records(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return {(r["stage"], r["epoch"]): r for r in map(json.loads, lines)}


@pytest.mark.slow
def test_all_stages_leave_source_and_held_out_accuracy(tmp_path):
  domain_generalization.run(_configure(tmp_path))
  results = json.loads((tmp_path / "results.json").read_text())["networks"]
  assert [r["name"] for r in results] == list(domain_generalization.STAGES)
  records = _records(tmp_path)
  for result in results:
    name, last = result["name"], 0 if result["name"] == "teacher" else 1
    record = records[name, last]
    assert record["test_accuracy"] == pytest.approx(result["accuracy"])
    assert record["validation_accuracy"] == pytest.approx(result["validation_accuracy"])
    assert 0 < result["straightness"] <= 1
    assert result["distance"] < result["path"]
    assert result["teacher"] == ("teacher" if name.startswith("kd") else None)
  students = [r["test_accuracy"] for (name, n), r in records.items() if n == -1]
  assert len(set(students[1:])) == 1  # the same weights to start from
  kept = {r["name"]: r.get("kept") for r in results}
  assert kept["erm"] is None
  assert kept["kd"] == 1
  for name in domain_generalization.FILTERS:
    assert 0 < kept[f"kd_{name}"] <= 1
  assert "val." in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_random_rows_are_as_many_as_passed_the_filter_in_every_epoch(tmp_path):
  config = _configure(
    tmp_path,
    stages=("teacher", "kd_confident", "kd_random"),
    matched_filter="confident",
    confidence=0.0,  # filters all rows that are right, and learns more of them
    student_epochs="3@1e-2",
    domain_images=300,
  )
  domain_generalization.run(config)
  records = _records(tmp_path)
  for epoch in range(3):
    rates = [records[name, epoch]["kept"] for name in ("kd_confident", "kd_random")]
    # 540 draws: a standard deviation of at most 0.022.
    assert rates[1] == pytest.approx(rates[0], abs=0.08)
  assert records["kd_confident", 2]["kept"] < records["kd_confident", 0]["kept"]


@pytest.mark.slow
def test_control_whose_filter_is_missing_says_what_to_do(tmp_path):
  config = _configure(tmp_path, stages=("kd_random",))
  with pytest.raises(
    ValueError, match="as many gradients as kd_saturated, which has not"
  ):
    domain_generalization.run(config)


def test_angles_have_training_images_of_their_own():
  config = _configure("w", held_out="30")
  assert config.dataset == "digits"
  assert config.train_split == "train[0:36]@0+train[80:116]@60"
  assert config.validation_split == "train[36:40]@0+train[116:120]@60"
  assert config.test_split == "test@30"
  given = _configure("w", test_split="test@90", rotations=("0", "60"))
  assert given.train_split == "train[0:36]@0"
  assert given.test_split == "test@90"
  mnist = domain_generalization.configure(dataset="mnist_rotated", workdir="w")
  assert mnist.dataset == "mnist"
  assert mnist.train_split.endswith("train[6000:7800]@45")


def test_splits_of_a_data_set_are_domains(data_dir, tmp_path):
  options = {"dataset": "domains", "data_dir": data_dir, "held_out": "sketch"}
  config = _configure(tmp_path, **options, stages=("erm",))
  assert config.train_split == "photo[:90%]+cartoon[:90%]"
  assert config.validation_split == "photo[90%:]+cartoon[90%:]"
  assert config.test_split == "sketch"
  with pytest.raises(ValueError, match="--held_out: expected one of photo, cartoon, s"):
    _configure(tmp_path, **{**options, "held_out": "painting"})


def test_training_images_have_the_colors_of_the_settings(data_dir, tmp_path):
  options = {"dataset": "domains", "data_dir": data_dir, "held_out": "sketch"}
  options |= {"train_split": "photo+cartoon", "crop_padding": 0}
  options |= {"validation_split": "sketch[:10]", "test_split": "sketch[10:]"}
  colors = {"min_crop_area": 0.7, "color_jitter": 0.3, "grayscale": 0.1}
  config = _configure(tmp_path / "a", **options, **colors)
  expected = {"flip": True, "min_area": 0.7, "color_jitter": 0.3, "grayscale": 0.1}
  assert config.augmentation == data.Augmentation(**expected)
  opened = job_run.open_datasets(config, train.Progress())
  assert opened.training.augmentation == config.augmentation


def test_data_set_that_is_not_prepared_is_refused(tmp_path):
  options = {"data_dir": str(tmp_path), "workdir": "w"}
  with pytest.raises(ValueError, match="or one prepared by its name under .*'pacs'"):
    domain_generalization.configure(dataset="pacs", **options)
  with pytest.raises(data.DatasetNotPreparedError, match="cifar10: no prepared copy"):
    domain_generalization.configure(dataset="cifar10", **options)


@pytest.mark.parametrize("options", [{"rotations": ("0", "9")}, {"domain_images": 20}])
def test_flags_of_rotated_sets_are_refused_with_others(options):
  (name,) = options
  with pytest.raises(ValueError, match=f"--{name}: expected with a rotated set"):
    domain_generalization.configure(dataset="pacs", workdir="W", **options)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"held_out": "75"}, "--held_out: expected one of 0, 30, 60, got '75'"),
    ({"rotations": ("60",)}, "--rotations: expected two domains or more, got 60"),
    ({"rotations": ("60", "a[b]")}, "--rotations: expected different angles in"),
    ({"rotations": ("60", "nan")}, "--rotations: expected different angles in"),
    ({"rotations": ("60", "60.0")}, "--rotations: expected different angles in"),
    ({"domain_images": 9}, "--domain_images: expected"),
    ({"stages": ("kd_f1",)}, "--stages: expected one of teacher, erm, .* got 'kd_f1'"),
    ({"matched_filter": "random"}, "--matched_filter: expected one of saturated"),
    ({"student_network": "vgg"}, "--student_network: .*expected one of"),
    ({"student_epochs": "9"}, "--student_epochs: expected EPOCHS@LEARNING_RATE"),
    ({"temperature": 0.0}, "--temperature: expected above 0, got 0.0"),
    ({"min_crop_area": 0.0}, "--min_crop_area: expected a number in"),
    (
      {"color_jitter": 0.6},
      r"--color_jitter: expected a number in \[0, 0.5\], got 0.6",
    ),
    ({"grayscale": 2.0}, r"--grayscale: expected a number in \[0, 1\], got 2.0"),
    ({"smallest": 0.0}, "--smallest: expected above 0, got 0.0"),
    ({"label_weight": 2.0}, r"--label_weight: expected a number in \[0, 1\], got 2.0"),
  ],
)
def test_impossible_settings_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    _configure("w", **options)


@pytest.mark.slow
def test_images_that_are_not_there_are_refused(tmp_path):
  config = _configure(tmp_path, domain_images=900)
  with pytest.raises(ValueError, match=r"--train_split: split of digits: Requested"):
    domain_generalization.run(config)
