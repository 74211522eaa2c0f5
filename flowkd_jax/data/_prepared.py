"""Finding a prepared data set of tensorflow-datasets, without asking it.

`tfds.builder` reaches for the network when a data set is not prepared, and waits
for it; looking at the folders first keeps a machine without network responsive.
"""

import os
import pathlib
import re

_NAME = re.compile(
  r"(?P<dataset>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class DatasetNotPreparedError(FileNotFoundError):
  """The data set is not on this machine in a form that can be read."""


def data_root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """`data_dir`, or the folder that tensorflow-datasets uses by default."""
  if data_dir is None:
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  return pathlib.Path(data_dir).expanduser()


def prepared_folder(name: str, root: pathlib.Path) -> pathlib.Path | None:
  """The folder of a prepared data set, or None.

  Args:
    name: "cifar10", "cifar10:3.0.2", "smallnorb/config" and the like. The
      newest version is taken where none is named, and the only configuration.
    root: Folder of all data sets.

  Raises:
    ValueError: Malformed name, or several configurations to choose from.
  """
  match = _NAME.fullmatch(name)
  if match is None:
    raise ValueError(
      "name: expected DATASET, DATASET/CONFIG or either with :VERSION (such as "
      f"'cifar10:3.0.2'), got {name!r}"
    )
  folder = root / match["dataset"]
  if match["config"]:
    return _newest_version(folder / match["config"], match["version"])
  found = _newest_version(folder, match["version"])
  if found is not None or not folder.is_dir():
    return found
  configs = {
    child.name: version
    for child in sorted(folder.iterdir())
    if (version := _newest_version(child, match["version"])) is not None
  }
  if len(configs) > 1:
    raise ValueError(
      f"name: {name!r} is prepared in several configurations "
      f"({', '.join(configs)}); name one, as in "
      f"'{match['dataset']}/{next(iter(configs))}'"
    )
  return next(iter(configs.values()), None)


def _newest_version(folder: pathlib.Path, version: str | None) -> pathlib.Path | None:
  """The newest version in a folder, or the one asked for."""
  found = [
    path.parent
    for path in folder.glob("*/dataset_info.json")
    if _VERSION.fullmatch(path.parent.name) and version in (None, path.parent.name)
  ]
  numbers = [[int(part) for part in path.name.split(".")] for path in found]
  return found[numbers.index(max(numbers))] if found else None


def not_prepared(name: str, root: pathlib.Path) -> DatasetNotPreparedError:
  """The error that says where was looked and what prepares the data set."""
  dataset = re.split("[/:]", name)[0]
  return DatasetNotPreparedError(
    f"{name}: no prepared copy, looked for dataset_info.json in a version "
    f"folder under {root / dataset}. {preparation(name, root)}"
  )


def preparation(name: str, root: pathlib.Path) -> str:
  """Command that prepares a data set in the format that is read here."""
  return (
    "Prepare it once, where there is a network and, for most data sets, "
    "TensorFlow (reading needs neither):\n"
    f"  tfds build {name} --data_dir={root} --file_format=array_record\n"
    "or in Python, after `import tensorflow_datasets as tfds`:\n"
    f"  tfds.builder({name!r}, data_dir={str(root)!r}, "
    "file_format='array_record').download_and_prepare()\n"
    "To read another folder, pass data_dir or set TFDS_DATA_DIR."
  )
