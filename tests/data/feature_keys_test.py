"""The image and the label are found by type; what is ambiguous is refused."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image as Pillow

from flowkd_jax import data
from flowkd_jax.data._feature_keys import find_keys

Image, ClassLabel = tfds.features.Image, tfds.features.ClassLabel


class Info:
  """The part of `DatasetInfo` that is read."""

  def __init__(self, supervised_keys, **features):
    self.supervised_keys = supervised_keys
    self.features = tfds.features.FeaturesDict(features)


def label():
  return ClassLabel(num_classes=3)


def found(info, **given):
  return find_keys("made", info, **{"image_key": None, "label_key": None, **given})


@pytest.mark.parametrize(
  "supervised_keys",
  [
    None,
    ("photo", "kind"),
    ("photo", "kind", "weight"),
    (("photo", "weight"), "kind"),
    ({"a": "photo"}, {"b": {"c": "kind"}}),
    ("weight", "photo"),
    ("kind", "photo"),
  ],
)
def test_find_keys_goes_by_type(supervised_keys):
  info = Info(supervised_keys, kind=label(), photo=Image(), weight=np.float32)
  assert found(info) == ("photo", "kind")


def test_find_keys_prefers_supervised_keys_and_then_the_usual_names():
  features = {"image": Image(), "other": Image(), "label": label(), "kind": label()}
  assert found(Info(("other", "kind"), **features)) == ("other", "kind")
  assert found(Info(None, **features)) == ("image", "label")
  assert found(Info(("image", "label", "kind"), **features), label_key="label")
  given = {"image_key": "other", "label_key": "kind"}
  assert found(Info(("image", "label"), **features), **given) == ("other", "kind")


def test_find_keys_leaves_label_maps_to_those_who_ask():
  labels = tfds.features.LabeledImage(labels=3, shape=(None, None, 1))
  info = Info(None, photo=Image(), kind=label(), map=labels)
  assert found(info) == ("photo", "kind")


def test_find_keys_takes_subclasses_of_images():
  class Photo(Image):
    pass

  assert found(Info(None, photo=Photo(), kind=label())) == ("photo", "kind")


@pytest.mark.parametrize(
  ("info", "given", "match"),
  [
    (
      Info(None, left=Image(), right=Image(), label=label()),
      {},
      r"holds an image, got left, right; choose with image_key= \(--image_key\)",
    ),
    (
      Info(("image", ("fine", "coarse")), image=Image(), fine=label(), coarse=label()),
      {},
      r"a class label, got fine, coarse; choose with label_key= \(--label_key\)",
    ),
    (
      Info(None, image=Image(), label=label()),
      {"image_key": "label"},
      r"image_key: expected .* holds an image, that is 'image', got",
    ),
    (
      Info(None, image=Image(), label=label()),
      {"label_key": "kind"},
      r"label_key: expected a feature .* that is 'label', got 'kind'",
    ),
    (
      Info(None, image=tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint8)),
      {},
      "expected an image and its class label among the features, got image",
    ),
  ],
)
def test_find_keys_refuses_what_is_ambiguous_or_missing(info, given, match):
  with pytest.raises(ValueError, match=match):
    found(info, **given)


def test_load_takes_the_keys_that_are_given(prepare):
  def png(level):
    file = io.BytesIO()
    Pillow.new("L", (4, 3), level).save(file, "PNG")
    return file.getvalue()

  gray = Image(shape=(3, 4, 1))
  folder = prepare(
    {"left": gray, "right": gray, "fine": label(), "coarse": label()},
    [{"left": png(7), "right": png(9), "fine": 2, "coarse": 1}],
  )
  with pytest.raises(ValueError, match="left, right; choose with image_key="):
    data.load("made", "train", data_dir=folder)
  keys = {"image_key": "right", "label_key": "fine"}
  split = data.load("made", "train", data_dir=folder, **keys)
  assert (split.images == 9).all()
  assert split.labels.tolist() == [2]
  turned = data.load("made", "train@90", data_dir=folder, image_size=4, **keys)
  assert turned.labels.tolist() == [2]


def test_open_source_refuses_keys_of_the_digits():
  with pytest.raises(ValueError, match=r"label_key: expected none for 'dig"):
    data.open_source("digits", "train", label_key="label")
