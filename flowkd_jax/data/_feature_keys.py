"""Choice of the image and the label among the features of a data set."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any


def find_keys(
  name: str, info: Any, *, image_key: str | None, label_key: str | None
) -> tuple[str, str]:
  """Names of the features that hold the image and its class label.

  A given key is used. Otherwise it is, in this order: the feature of the right type
  that the data set names for supervised training; the feature called "image" or
  "label"; or the only feature of the right type.

  Args:
    name: Data set, for messages.
    info: `DatasetInfo` of tensorflow-datasets.
    image_key: Feature that holds the image; None to find it.
    label_key: Feature that holds the class label; None to find it.

  Raises:
    ValueError: If a given key is not a feature of the right type, or if there is no
      such feature, or several without a choice.
  """
  import tensorflow_datasets as tfds

  types = tfds.features
  has_names = isinstance(info.features, types.FeaturesDict)
  # Sorted: features read from disk come in no fixed order.
  features = dict(sorted(info.features.items())) if has_names else {}
  supervised = [*_leaves(info.supervised_keys)]

  def find(argument: str, given: str | None, kind: type, what: str, usual: str) -> str:
    of_kind = [key for key, feature in features.items() if isinstance(feature, kind)]
    # A `LabeledImage` is an `Image` whose pixels are labels: used only if it is given.
    found = [
      key for key in of_kind if not isinstance(features[key], types.LabeledImage)
    ]
    if given is not None:
      if given in of_kind:
        return given
      raise ValueError(
        f"{argument}: expected a feature of {name} that holds {what}, "
        f"that is {_one_of(of_kind)}, got {given!r}"
      )
    if not found:
      raise ValueError(
        f"{name}: expected an image and its class label among the features, got "
        f"{', '.join(features) or 'none by name'}; choose an image-classification "
        "data set"
      )
    named = [key for key in dict.fromkeys(supervised) if key in found]
    candidates = named or ([usual] if usual in found else found)
    if len(candidates) > 1:
      raise ValueError(
        f"{name}: expected one feature that holds {what}, got "
        f"{', '.join(candidates)}; choose with {argument}= (--{argument})"
      )
    return candidates[0]

  return (
    find("image_key", image_key, types.Image, "an image", "image"),
    find("label_key", label_key, types.ClassLabel, "a class label", "label"),
  )


def _leaves(keys: Any) -> Iterator[str]:
  """Names in `supervised_keys`, which may be nested tuples and dictionaries."""
  if isinstance(keys, str):
    yield keys
  elif isinstance(keys, Mapping):
    yield from _leaves([*keys.values()])
  elif keys is not None:
    for each in keys:
      yield from _leaves(each)


def _one_of(keys: Sequence[str]) -> str:
  return " or ".join(repr(key) for key in keys) or "none of them"
