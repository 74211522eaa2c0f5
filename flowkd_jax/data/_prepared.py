"""Search for prepared data sets of tensorflow-datasets in the file system.

If a data set is not prepared, `tfds.builder` tries the network and waits for it.
Looking at the folders first avoids this delay on machines without network.
"""

import os
import pathlib
import re

_NAME = re.compile(
  r"(?P<dataset>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class DatasetNotPreparedError(FileNotFoundError):
  """Error for a data set that is not on this machine in a readable format."""


def data_root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Folder of all data sets: `data_dir`, or the default of tensorflow-datasets."""
  if data_dir is None:
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  return pathlib.Path(data_dir).expanduser()


def prepared_folder(name: str, root: pathlib.Path) -> pathlib.Path | None:
  """Folder of a prepared data set, or None.

  Args:
    name: Name of the data set, such as "cifar10", "cifar10:3.0.2" or
      "smallnorb/config". Without a version, the newest one is used; without a
      configuration, the only one.
    root: Folder of all data sets.

  Raises:
    ValueError: If the name is malformed, or several configurations are prepared.
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
  """Newest version in a folder, or the requested one."""
  found = [
    path.parent
    for path in folder.glob("*/dataset_info.json")
    if _VERSION.fullmatch(path.parent.name) and version in (None, path.parent.name)
  ]
  numbers = [[int(part) for part in path.name.split(".")] for path in found]
  return found[numbers.index(max(numbers))] if found else None


def not_prepared(name: str, root: pathlib.Path) -> DatasetNotPreparedError:
  """Error that names the searched folder and the command that prepares the data set."""
  dataset = re.split("[/:]", name)[0]
  return DatasetNotPreparedError(
    f"{name}: no prepared copy, looked for dataset_info.json in a version "
    f"folder under {root / dataset}. {preparation(name, root)}"
  )


def preparation(name: str, root: pathlib.Path) -> str:
  """Advice with the command that prepares a data set in the readable format."""
  return (
    "Prepare it once, where there is a network and, for most data sets, "
    "TensorFlow (reading needs neither):\n"
    f"  tfds build {name} --data_dir={root} --file_format=array_record\n"
    "or in Python, after `import tensorflow_datasets as tfds`:\n"
    f"  tfds.builder({name!r}, data_dir={str(root)!r}, "
    "file_format='array_record').download_and_prepare()\n"
    "To read another folder, pass data_dir or set TFDS_DATA_DIR."
  )
