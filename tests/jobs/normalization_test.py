"""Means and deviations that a run keeps."""

import numpy as np
import pytest

from flowkd_jax import data
from flowkd_jax import train
from flowkd_jax.jobs import normalization
from flowkd_jax.jobs import settings


def _split(count=3):
  images = np.arange(count * 4, dtype=np.int32).astype(np.uint8).reshape(count, 1, 2, 2)
  return data.Split("mine", "train", images, np.zeros(count, np.int32), ("a",))


def _of_run(tmp_path, split, dataset="mine", *, begun):
  config = settings.Settings(workdir=str(tmp_path), dataset=dataset)
  return normalization.of_run(config, split, train.Progress(), begun=begun)


def _keep(tmp_path, mean, std, dataset="mine"):
  config = settings.Settings(workdir=str(tmp_path), dataset=dataset)
  normalization.keep(config, mean, std)


def test_kept_numbers_are_read_by_runs_that_have_begun_only(tmp_path):
  split = _split()
  _keep(tmp_path, (1.5, 2.0), (3.0, 4.0))
  assert _of_run(tmp_path, split, begun=True) == ((1.5, 2.0), (3.0, 4.0))
  # The folder of a run that was refused may hold numbers of other images.
  assert _of_run(tmp_path, split, begun=False) == split.statistics()


def test_run_that_kept_nothing_goes_on_with_the_numbers_of_all_images(tmp_path):
  split = _split(4200)
  assert _of_run(tmp_path, split, begun=True) == split.statistics()
  assert _of_run(tmp_path, split, begun=False) != split.statistics()


def test_known_numbers_are_not_kept(tmp_path):
  _keep(tmp_path, (1.0,), (1.0,), dataset="digits")
  assert not [*tmp_path.iterdir()]
  for begun in (False, True):
    found = _of_run(tmp_path, _split(), dataset="digits", begun=begun)
    assert found == data.normalization("digits")


@pytest.mark.parametrize(
  "text", ["", "[1]", '{"mean": [1, 2]}', '{"mean": [1, 2], "std": [1, 0]}']
)
def test_damaged_numbers_are_refused(text, tmp_path):
  (tmp_path / normalization.FILE).write_text(text)
  with pytest.raises(ValueError, match=r"normalization\.json.*; restore a copy"):
    _of_run(tmp_path, _split(), begun=True)
