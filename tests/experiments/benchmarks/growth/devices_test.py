"""Cases of data sets on devices."""

import jax

from experiments.benchmarks.growth import devices


def test_readers_share_the_images(monkeypatch):
  monkeypatch.setattr(devices, "_IMAGES", 100)
  work = devices.CASES["readers of images"].make(3)
  before = len(jax.live_arrays())
  arrays = work()
  assert arrays["images"].nbytes == 100 * 32 * 32 * 3
  assert len(jax.live_arrays()) - before == len(arrays)
