"""Handwritten digits of scikit-learn, real data without a download."""

from typing import Any

import numpy as np
from jaxtyping import Bool
from jaxtyping import Int

from flowkd_jax import _extra
from flowkd_jax.data._order import random_ranks
from flowkd_jax.data._split import Split

DIGITS_SPLITS = ("train", "test")
_EXAMPLES = 1797
_TRAIN_EXAMPLES = 1_000
_SPLIT_SEED = 0


def load_digits(split: str) -> Split:
  """Load the 8 x 8 digits: 1,000 examples for "train", 797 for "test".

  The values 0..16 of scikit-learn become round(value * 255 / 16), which is in 0..255.
  The partition into the two splits is fixed and stratified by class.

  Parts of the splits, such as "train[:90%]" or "train[100:200]+test", are written as in
  tensorflow-datasets, which must be installed to parse them.

  Raises:
    ValueError: If there is no such split, or the split is empty.
    ImportError: If scikit-learn is not installed.
  """
  try:
    import sklearn.datasets
  except ImportError as error:
    raise ImportError(
      "the data set 'digits' needs scikit-learn: pip install 'flowkd_jax[train]'"
    ) from error
  values, classes = sklearn.datasets.load_digits(return_X_y=True)
  images = np.rint(np.reshape(values, (-1, 8, 8, 1)) * (255 / 16))
  rows = _rows_of(split, _in_train(classes))
  return Split(
    name="digits",
    split=split,
    images=images[rows].astype(np.uint8),
    labels=classes[rows].astype(np.int32),
    class_names=tuple("0123456789"),
  )


def digits_infos() -> dict[str, Any]:
  """Sizes of the splits, in the form that tensorflow-datasets needs to parse splits."""
  _extra.require("data", ("tensorflow_datasets",))
  from tensorflow_datasets.core import SplitInfo

  sizes = {"train": _TRAIN_EXAMPLES, "test": _EXAMPLES - _TRAIN_EXAMPLES}
  return {
    name: SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
    for name, size in sizes.items()
  }


def _rows_of(
  split: str, in_train: Bool[np.ndarray, " examples"]
) -> Int[np.ndarray, " rows"]:
  """Positions of the examples of a split."""
  places = {"train": np.flatnonzero(in_train), "test": np.flatnonzero(~in_train)}
  if split in places:
    return places[split]
  _extra.require("data", ("tensorflow_datasets",))
  from tensorflow_datasets.core import ReadInstruction

  infos = digits_infos()
  try:
    parts = ReadInstruction.from_spec(split).to_absolute(infos)
  except ValueError as error:
    raise ValueError(f"split of digits: {error}") from None
  rows = [places[part.splitname][part.from_ : part.to] for part in parts]
  return np.concatenate(rows)


def _in_train(
  classes: Int[np.ndarray, " examples"],
) -> Bool[np.ndarray, " examples"]:
  """Mark the training examples, which are the first quantiles of each class."""
  ranks = random_ranks(_SPLIT_SEED, 0, len(classes))
  quantiles = np.empty(len(classes))
  for label in np.unique(classes):
    members = np.flatnonzero(classes == label)
    shuffled = members[np.argsort(ranks[members], kind="stable")]
    quantiles[shuffled] = (np.arange(len(members)) + 0.5) / len(members)
  order = np.lexsort((ranks, quantiles))
  chosen = np.zeros(len(classes), bool)
  chosen[order[:_TRAIN_EXAMPLES]] = True
  return chosen
