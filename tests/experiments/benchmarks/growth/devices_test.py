"""Cases of data sets on devices."""

import jax

from experiments.benchmarks.growth import devices


def test_readers_share_the_images(monkeypatch):
  monkeypatch.setattr(devices, "_IMAGES", 100)
  work = devices.CASES["readers of images"].make(3)
  images = work()["images"]
  assert images.shape == (100, 32, 32, 3)
  alive = [
    array
    for array in jax.live_arrays()
    if array.shape == images.shape and array.sharding == images.sharding
  ]
  assert len(alive) == 1
