"""Notebooks as pages, with the outputs of their last kept run.

The notebooks in `colab` are kept without outputs. This runs them as they stand, and
keeps the outputs of each cell beside a hash of its source in `docs/outputs`; a page
shows the output of a cell only while the cell is what was run:

    python docs/_notebooks.py                # all, several minutes on two CPU cores
    python docs/_notebooks.py quick_start    # one
"""

import base64
import hashlib
import itertools
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).with_name("outputs")
FIRST, LAST = 4, 16  # lines that a cell with many lines shows
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def paths() -> list[Path]:
  """Notebooks in the order of the navigation."""
  return sorted((ROOT / "colab").glob("*.ipynb"), reverse=True)


def page(path: Path, kept: Path = KEPT) -> str:
  """A notebook as Markdown: text, code, and the outputs kept under `kept`."""
  file = kept / path.stem / "outputs.json"
  outputs = json.loads(file.read_text()) if file.exists() else {"cells": {}}
  parts = []
  for cell in nbformat.read(path, as_version=4).cells:
    if cell.cell_type != "code":
      parts.append(cell.source)
      continue
    parts.append(f"```python\n{cell.source}\n```")
    for shown in outputs["cells"].get(_hash(cell.source), ()):
      parts.append(_markdown(shown, path.stem))
  if "run" in outputs:
    parts.append(
      f"*Outputs of a run with {outputs['run']}; times depend on the machine.*"
    )
  return "\n\n".join(parts)


def run(path: Path, kept: Path = KEPT) -> None:
  """Runs a notebook in an empty folder and keeps its outputs under `kept`."""
  import nbclient

  notebook = nbformat.read(path, as_version=4)
  with tempfile.TemporaryDirectory() as folder:
    nbclient.NotebookClient(
      notebook, timeout=1800, resources={"metadata": {"path": folder}}
    ).execute()
  place = kept / path.stem
  place.mkdir(parents=True, exist_ok=True)
  for picture in place.glob("*.png"):
    picture.unlink()
  cells = {}
  for cell in notebook.cells:
    if cell.cell_type == "code":
      name = _hash(cell.source)
      shown = [_kept(output, place, name, i) for i, output in enumerate(cell.outputs)]
      cells[name] = joined([output for output in shown if output])
  cells = {name: shown for name, shown in cells.items() if shown}
  text = json.dumps({"run": _versions(), "cells": cells}, indent=1)
  (place / "outputs.json").write_text(f"{text}\n")


def _hash(source: str) -> str:
  return hashlib.sha256(source.encode()).hexdigest()[:12]


def _kept(output: Any, place: Path, name: str, number: int) -> dict[str, str]:
  """An output as it is kept: a picture as a file, anything else as text."""
  data = output.get("data", {})
  if "image/png" in data:
    picture = place / f"{name}_{number}.png"
    picture.write_bytes(base64.b64decode(data["image/png"]))
    return {"picture": picture.name}
  text = _ESCAPES.sub("", output.get("text") or data.get("text/plain", ""))
  # A progress line overwrites itself: what was last written stays.
  lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
  text = "\n".join(line for line in lines if line)
  return {"text": text} if text else {}


def joined(shown: list[dict[str, str]]) -> list[dict[str, str]]:
  """Outputs with neighbouring texts as one, the middle of long ones left out."""
  parts = []
  for is_text, group in itertools.groupby(shown, key=lambda output: "text" in output):
    if not is_text:
      parts += group
      continue
    lines = "\n".join(output["text"] for output in group).splitlines()
    if len(lines) > FIRST + LAST + 1:
      left_out = f"... {len(lines) - FIRST - LAST} lines ..."
      lines = [*lines[:FIRST], left_out, *lines[-LAST:]]
    parts.append({"text": "\n".join(lines)})
  return parts


def _markdown(shown: dict[str, str], stem: str) -> str:
  if "picture" in shown:
    return f"![Output of the cell above](../outputs/{stem}/{shown['picture']})"
  return f"```text\n{shown['text']}\n```"


def _versions() -> str:
  import jax

  import flowkd_jax

  return f"flowkd_jax {flowkd_jax.__version__} and JAX {jax.__version__} on a CPU"


if __name__ == "__main__":
  for each in paths():
    if each.stem in sys.argv[1:] or not sys.argv[1:]:
      run(each)
