"""Batches of loaded and of opened sources."""

import numpy as np
import pytest

from flowkd_jax import data

OPTIONS = {"batch_size": 8, "mean": (0.0,), "std": (1.0,)}


@pytest.mark.parametrize("make", [data.load, data.open_source])
def test_batches_see_the_same_rows_whether_loaded_or_streamed(make):
  source = make("digits", "train", limit=12)
  evaluated = list(data.evaluation_batches(source, **OPTIONS).epoch(0))
  assert [batch["mask"].sum() for batch in evaluated] == [8, 4]
  trained = data.training_batches(source, seed=0, **OPTIONS)
  assert trained.steps_per_epoch == 2
  assert trained.image_shape == (8, 8, 1)
  assert (len(trained.resident) > 0) == isinstance(source, data.Split)
  assert sum(int(batch["mask"].sum()) for batch in trained.epoch(1)) == 12
  with pytest.raises(ValueError, match="batch_size: expected 1..12"):
    data.evaluation_batches(source, **{**OPTIONS, "batch_size": np.int64(13)})
