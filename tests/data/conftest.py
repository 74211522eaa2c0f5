"""A tiny data set of tensorflow-datasets, prepared without TensorFlow."""

import io

import numpy as np
import pytest
from PIL import Image

CLASSES = ("cat", "dog", "owl")


def image_of(index, size=None):
  """Random pixels of one example; sizes vary where none is given."""
  rng = np.random.default_rng(index)
  height, width = size or (8 + index % 3, 9 + index % 4)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def png(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  file.seek(0)
  return file


@pytest.fixture(scope="session")
def builders():
  """Builder classes: `tiny_fixed`, `tiny_varied` and `tiny_text`."""
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()

  class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.2.0")
    SIZE = None

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(*(self.SIZE or (None, None)), 3)),
        # Read only by who asks for it.
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "label": tfds.features.ClassLabel(names=CLASSES),
        "number": np.int32,
      }
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("image", "label"),
      )

    def _split_generators(self, dl_manager):
      return {"train": self._examples(0, 20), "test": self._examples(20, 26)}

    def _generate_examples(self):
      raise NotImplementedError

    def _examples(self, start, stop):
      for index in range(start, stop):
        image = image_of(index, self.SIZE)
        yield (
          index,
          {
            "image": png(image),
            "mask": io.BytesIO(b"not an image"),
            "label": index % len(CLASSES),
            "number": index,
          },
        )

  class TinyFixed(Tiny):
    SIZE = (6, 7)

  class TinyVaried(Tiny):
    pass

  class TinyText(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      yield 0, {"text": "hello"}

  builders = {"fixed": TinyFixed, "varied": TinyVaried, "text": TinyText}
  for builder in builders.values():
    # A builder within a package would be looked up as a package resource.
    builder.__module__ = "tiny"
  return builders


@pytest.fixture(scope="session")
def data_dir(builders, tmp_path_factory):
  """A folder with the three tiny data sets, prepared as array_record."""
  folder = tmp_path_factory.mktemp("tfds")
  for builder in builders.values():
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
  return folder


@pytest.fixture
def prepare(tmp_path):
  """A function that prepares a data set "made" of these features and examples.

  It returns the folder to pass as `data_dir`.
  """
  import tensorflow_datasets as tfds

  def prepare(features, examples, supervised_keys=None):
    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
      VERSION = tfds.core.Version("1.0.0")

      def _info(self):
        return tfds.core.DatasetInfo(
          builder=self,
          features=tfds.features.FeaturesDict(features),
          supervised_keys=supervised_keys,
        )

      def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

      def _generate_examples(self):
        yield from enumerate(examples)

    Made.__module__ = "made"
    Made(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    return tmp_path

  return prepare
