"""Data sets from one folder, joined if the folder comes in pieces.

Pieces of a folder are DIR.part0, DIR.part1, ...; each has some of its files. Pieces of
a file are FILE.part0, FILE.part1, ..., in any of these folders.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

_PIECE = re.compile(r"(.+)\.part(\d+)")


def joined(data_dir: Path, into: Path) -> Path:
  """The folder itself if it is complete, otherwise a folder made from its pieces.

  Complete files are linked, not copied.

  Args:
    data_dir: The folder, DIR of the pieces.
    into: Folder to make. If an earlier call made it and it has all files of the
      present pieces, it is used again.

  Raises:
    ValueError: If a piece is missing, or two pieces have a file of the same name.
  """
  folders = [data_dir] if data_dir.is_dir() else []
  if data_dir.parent.is_dir():
    beside = {path.name: path for path in data_dir.parent.iterdir() if path.is_dir()}
    folders += _in_order(data_dir.name, beside)
  whole: dict[str, Path] = {}
  pieces: dict[str, dict[str, Path]] = {}
  for folder in folders:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
      name = str(path.relative_to(folder))
      piece = _PIECE.fullmatch(name)
      of = whole if piece is None else pieces.setdefault(piece[1], {})
      if name in of:
        raise ValueError(
          f"--data_dir: expected each file in one piece of {data_dir}, got {name} in "
          f"{folder} and in another; remove one of them"
        )
      of[name] = path
  if folders == [data_dir] and not pieces or not folders:
    return data_dir
  if not all((into / name).exists() for name in (*whole, *pieces)):
    shutil.rmtree(into, ignore_errors=True)
    _make(into, whole, pieces)
  return into


def _make(into: Path, whole: Mapping[str, Path], pieces: Mapping[str, dict]) -> None:
  """Makes the folder under another name and renames it: it is complete or absent."""
  temporary = into.with_name(f".{into.name}")
  shutil.rmtree(temporary, ignore_errors=True)
  for name, path in whole.items():
    _place(temporary, name).symlink_to(path.absolute())
  for name, found in pieces.items():
    with _place(temporary, name).open("wb") as file:
      for piece in _in_order(name, found):
        with piece.open("rb") as part:
          shutil.copyfileobj(part, file)
  temporary.rename(into)


def _place(folder: Path, name: str) -> Path:
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


def _in_order(name: str, found: Mapping[str, Path]) -> list[Path]:
  """Pieces of a name by their numbers, which start at 0 or 1 and have no gaps."""
  numbered = {}
  for each, path in found.items():
    piece = _PIECE.fullmatch(each)
    if piece is not None and piece[1] == name:
      numbered[int(piece[2])] = path
  numbers = sorted(numbered)
  if numbers and numbers != [*range(numbers[0], numbers[0] + len(numbers))]:
    raise ValueError(
      f"--data_dir: expected all pieces of {name}, got {numbers}; copy the missing ones"
    )
  if numbers and numbers[0] > 1:
    raise ValueError(
      f"--data_dir: expected pieces of {name} from part0 on, got {numbers}; copy the "
      "missing ones"
    )
  return [numbered[number] for number in numbers]
