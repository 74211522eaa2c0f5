"""Small files that are written atomically, and JSON files sealed with a checksum.

A file is written under a temporary name in the same folder, flushed to the disk and
renamed. After a power failure either the old or the new content is there. A sealed JSON
object holds the SHA-256 of its other entries under the key "sha256". Errors name the
file.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "sha256"
_LENGTH = 64  # number of hexadecimal digits of a checksum


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes or replaces a text file. Missing folders are created."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    with temporary.open("w", encoding="utf-8") as file:
      file.write(text)
      # Without a flush the rename may reach the disk before the content does.
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  _sync_folder(path.parent)


def write_json(
  path: str | os.PathLike[str], content: Mapping[str, Any] | list[dict[str, Any]]
) -> None:
  """Writes or replaces a file with a sealed JSON object or a list of such objects.

  Raises:
    ValueError: If a number is NaN or infinite, which JSON cannot hold.
  """
  sealed = [*map(seal, content)] if isinstance(content, list) else seal(content)
  write_text(path, json.dumps(sealed, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], remedy: str) -> Any:
  """Content of a JSON file, without the seals of its objects.

  Args:
    path: The file.
    remedy: Advice for a damaged file, which ends the error message.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is not JSON or does not match its seal. The message names
      the file.
  """
  content = Path(path).read_bytes()
  try:
    found = json.loads(content.decode("utf-8"))
    return [*map(unseal, found)] if isinstance(found, list) else unseal(found)
  except (ValueError, RecursionError) as error:
    reason = str(error) if isinstance(error, SealError) else "it is not complete JSON"
    raise ValueError(f"{path} is damaged: {reason}; {remedy}") from None


class SealError(ValueError):
  """Error for a sealed object whose entries changed after it was sealed."""


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
  """A copy of the object with its checksum. All values must be valid in JSON."""
  # Converted by JSON first: the checksum is that of the values that a reader gets, with
  # lists in place of tuples and text in place of numbers as keys.
  plain = json.loads(json.dumps(dict(content), allow_nan=False))
  return {**plain, SEAL: _digest(plain)}


def unseal(content: Any) -> Any:
  """Content without its seal. Content that was not sealed is returned unchanged.

  Raises:
    SealError: If the entries do not match the seal.
  """
  if not isinstance(content, dict):
    return content
  if SEAL not in content:
    _check_for_seal_of_another_name(content)
    return content
  if content[SEAL] != _digest(_without(content, SEAL)):
    raise SealError(
      f'its entries do not match their checksum "{SEAL}" (remove that entry if you '
      "edited the file yourself)"
    )
  return _without(content, SEAL)


def _check_for_seal_of_another_name(content: Mapping[str, Any]) -> None:
  """Raises SealError if an entry of another name is the checksum of the others."""
  for name, value in content.items():
    long = isinstance(value, str) and len(value) == _LENGTH
    if long and value == _digest(_without(content, name)):
      raise SealError(f'its checksum is called {name!r} in place of "{SEAL}"')


def _without(content: Mapping[str, Any], name: str) -> dict[str, Any]:
  return {other: value for other, value in content.items() if other != name}


def _digest(entries: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
  """Flushes a folder, so that a rename survives a power failure.

  File systems that cannot flush folders are left as they are.
  """
  try:
    descriptor = os.open(folder, os.O_RDONLY)
  except OSError:
    return
  try:
    os.fsync(descriptor)
  except OSError:
    pass
  finally:
    os.close(descriptor)
