"""Settings of the information-flow job."""

import pytest

from flowkd_jax import methods
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import information_flow
from flowkd_jax.jobs import optimizers


@pytest.mark.parametrize(
  "content", ["[1]", '{"layer_map": {"dense": 1}}', '{"dense": "dense"}', "{}", "3"]
)
def test_layer_maps_of_another_form_are_refused(content, tmp_path):
  path = tmp_path / "map.json"
  path.write_text(content)
  with pytest.raises(ValueError, match="--layer_map: expected a layer_map.json of an"):
    flow_settings.configure(workdir=str(tmp_path), layer_map=str(path))


@pytest.mark.parametrize("text", ["block1:block1", "a:b:c", "nowhere.json", "x" * 5000])
def test_layer_maps_are_checked_with_the_other_settings(text, tmp_path):
  with pytest.raises(ValueError, match="--layer_map: "):
    flow_settings.configure(workdir=str(tmp_path), layer_map=text)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"matching": "quadratic", "divergence": "kl"}, "--divergence: expected with"),
    ({"teacher_cache_dtype": "float16"}, "--teacher_cache_dtype: expected with --tea"),
    (
      {"learn_from": "recorded", "teacher_cache": ".", "teacher_mixed_precision": True},
      "--teacher_mixed_precision: expected with a network to learn from",
    ),
    ({"teacher_cache_gib": 1.0}, "--teacher_cache_gib: expected with --teacher_cache"),
  ],
)
def test_flags_that_others_leave_unread_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    flow_settings.configure(workdir="W", **options)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"workdir": ""}, "--workdir: expected a folder"),
    ({"stages": ("studnet",)}, "--stages: expected one of teacher, .* got 'studnet'"),
    ({"matching": "qmi"}, "--matching: expected one of probabilities, quadratic"),
    ({"kernels": ("cosin",)}, "--kernels: expected one of cosine"),
    ({"last_tap_kernels": ("vmf",)}, "--last_tap_kernels: expected one of cosine"),
    (
      {"authors": True, "kernels": ("von_mises_fisher",)},
      "--kernels: expected one of cosine, student_t, rbf, adaptive_rbf, cauchy, got",
    ),
    (
      {"kernels": ("von_mises_fisher:-8",)},
      "--kernels: expected von_mises_fisher:CONCENTRATION, the concentration a number",
    ),
    ({"last_tap_kernels": ("cosine:2",)}, "--last_tap_kernels: .* has no parameter"),
    ({"divergence": "smoothed_kl:0"}, "--divergence: expected smoothed_kl:EPSILON"),
    ({"divergence": "js"}, "--divergence: expected one of jeffreys"),
    ({"student_network": "vgg"}, "--student_network: network: expected one of cnn1"),
    ({"student_network": "cnn1:x"}, "--student_network: .*WIDTH with a positive"),
    ({"teacher_epochs": "50x1e-3"}, "--teacher_epochs: expected EPOCHS@LEARNING_RATE"),
    ({"student_epochs": "0@1e-3"}, "--student_epochs: expected EPOCHS@LEARNING_RATE"),
    ({"batch_size": 0}, "--batch_size: expected 1 or more, got 0"),
    ({"kd_temperature": 0.0}, "--kd_temperature: expected above 0, got 0.0"),
    ({"label_weight": -1.0}, "--label_weight: expected 0 or above, got -1.0"),
    ({"learning_rate_decay": "step"}, "--learning_rate_decay: expected one of const"),
    ({"learn_from": "student"}, "--learn_from: expected one of auxiliary, teacher"),
    ({"teacher_pooling": "max"}, "--teacher_pooling: expected one of mean, class_tok"),
    ({"average": 1.0}, r"--average: expected a number in \[0, 1\), got 1.0"),
    ({"adam_beta2": 1.0}, r"--adam_beta2: expected a number in \[0, 1\), got 1.0"),
    ({"recipe": "best"}, "--recipe: expected one of paper, posterior, labelled, got"),
    ({"last_tap_from": "labels"}, "--last_tap_from: expected one of tap, posterior"),
    ({"seed": -1}, "--seed: expected 0 or above, got -1"),
    ({"flow_weight_gamma": 2.0}, "--flow_weight_gamma: expected a number in"),
    (
      {"authors": True, "matching": "quadratic"},
      "--authors: expected with --matching=probabilities",
    ),
  ],
)
def test_impossible_settings_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    information_flow.configure(**{"workdir": "x", **options})


def test_settings_are_the_papers_unless_the_data_set_has_others():
  paper = information_flow.configure(dataset="cifar10", workdir="x")
  assert (paper.batch_size, paper.flow_weight_init) == (128, 100.0)
  assert optimizers.phases(paper.teacher_epochs, "") == [(50, 1e-3), (30, 1e-4)]
  digits = information_flow.configure(dataset="digits", workdir="x", batch_size=8)
  assert digits.batch_size == 8
  assert not digits.flip


def test_recipe_gives_way_to_the_data_set_and_to_flags():
  options = {"dataset": "cifar10", "recipe": "posterior", "workdir": "x"}
  recipe = information_flow.configure(**options)
  assert recipe.last_tap_from == methods.POSTERIOR
  assert (recipe.crop_padding, recipe.student_epochs) == (0, "50@1e-2")
  assert information_flow.configure(**options, crop_padding=2).crop_padding == 2
  digits = information_flow.configure(**{**options, "dataset": "digits"})
  assert digits.student_epochs == "40@1e-3"
