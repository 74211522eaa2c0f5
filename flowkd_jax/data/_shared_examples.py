"""Examples that two splits of a data set have in common."""

import os
import re
from typing import Any

from flowkd_jax import _extra
from flowkd_jax.data._digits import digits_infos
from flowkd_jax.data._tfds import tfds_infos

_NAME = re.compile(r"[^\[@]*")


def shared_examples(
  name: str,
  one: str,
  other: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
) -> int:
  """Number of examples that are in both splits, regardless of rotation.

  Args:
    name: See `open_source`.
    one: A split, as for `open_source`.
    other: Another split.
    data_dir: See `open_source`.

  Raises:
    DatasetNotPreparedError: Not on this machine.
    ValueError: If a name or split is unknown.
  """
  names = [set(map(_name, split.split("+"))) for split in (one, other)]
  if not names[0] & names[1] and "all" not in names[0] | names[1]:
    return 0  # Decided by name: needs neither sizes nor tensorflow-datasets.
  infos = digits_infos() if name == "digits" else tfds_infos(name, data_dir=data_dir)
  parts = _intervals(one, infos), _intervals(other, infos)
  return sum(
    max(0, min(a[2], b[2]) - max(a[1], b[1]))
    for a in parts[0]
    for b in parts[1]
    if a[0] == b[0]
  )


def _name(part: str) -> str:
  found = _NAME.match(part)
  return found[0].strip() if found else part


def _intervals(split: str, infos: Any) -> list[tuple[str, int, int]]:
  """`(name, first, end)` of every part of a split."""
  _extra.require("data", ("tensorflow_datasets",))
  from tensorflow_datasets.core import ReadInstruction

  plain = "+".join(part.partition("@")[0] for part in split.split("+"))
  try:
    parts = ReadInstruction.from_spec(plain).to_absolute(infos)
  except ValueError as error:
    raise ValueError(f"split: {error}") from None
  ends = {name: info.num_examples for name, info in infos.items()}
  return [
    (
      part.splitname,
      part.from_ or 0,
      ends[part.splitname] if part.to is None else part.to,
    )
    for part in parts
  ]
