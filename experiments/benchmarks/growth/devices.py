"""Cases of data sets on devices: programs that read the same images."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.growth.case import Case
from flowkd_jax import data
from flowkd_jax import models
from flowkd_jax import train

Work = Callable[[], Any]
_IMAGES = 10_000


def _readers(count: int) -> Work:
  """Extractors of features that read one data set on the devices."""
  images = np.random.default_rng(0).integers(0, 256, (_IMAGES, 32, 32, 3), np.uint8)
  split = data.Split("made", "train", images, np.zeros(_IMAGES, np.int32), ("a",))
  batches = data.evaluation_batches(
    split, batch_size=64, mean=(128,) * 3, std=(64,) * 3
  )
  model = models.by_name("digits_cnn:2", num_classes=1)
  devices = jax.local_devices()

  def work():
    extractors = [
      train.FeatureExtractor(model, batches, taps=(), devices=devices)
      for _ in range(count)
    ]
    return extractors[-1].images.resident.arrays  # all are alive until here

  return work


CASES: Mapping[str, Case] = {
  "readers of images": Case(_readers, (1, 4, 16), "programs", tiny=1),
}
