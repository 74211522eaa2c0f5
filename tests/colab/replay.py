"""Replay of the notebooks' install cell by pip's resolver, on machines of Colab.

`colab.json` holds the packages that the machines have installed, and the requirements
of these packages and of those that pip adds. The tests need nothing else. `make colab`
reads the lists that Colab publishes and the package index, and writes the file again.
"""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from unittest import mock

import nbformat
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[2]
FILE = pathlib.Path(__file__).with_name("colab.json")
NOTEBOOK = ROOT / "colab" / "losses_in_your_own_code.ipynb"  # asks for most
_EXTRA = re.compile(r"extra == [\"']([^\"']+)")


class _AskedError(Exception):
  """Stops the cell where it would call pip."""


def asked_of_pip(notebook: pathlib.Path, installed: dict[str, str]) -> list[str]:
  """Requirements that the cell installs on a machine that has these packages."""
  cells = nbformat.read(notebook, as_version=4).cells
  (cell,) = [cell.source for cell in cells if "REPOSITORY =" in cell.source]

  def version(name):
    if canonicalize_name(name) in installed:
      return installed[canonicalize_name(name)]
    raise importlib.metadata.PackageNotFoundError(name)

  gpu = any(name.startswith("jax-cuda") for name in installed)
  pip = mock.patch.object(subprocess, "run", side_effect=_AskedError)
  with (
    pip as run,
    mock.patch.object(shutil, "which", lambda name: name if gpu else None),
    mock.patch.object(importlib.metadata, "version", version),
  ):
    try:
      exec(cell.replace("//github.com/OWNER", "//host/me"), {})
    except _AskedError:
      pass
    else:
      raise ValueError(f"{notebook.name}: expected a call of pip, got none")
  command = run.call_args.args[0]
  return [part for part in command[command.index("install") + 1 :] if part[0] != "-"]


def package_requirements() -> list[str]:
  """Requirements in pyproject.toml; those of the extra `train` are marked."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  extra = project["optional-dependencies"]["train"]
  return [*project["dependencies"], *(f'{one}; extra == "train"' for one in extra)]


def without_limit(asked: list[str]) -> list[str]:
  """The same requirements, of any later JAX."""
  return [part.removesuffix(",<0.11") for part in asked]


def make_machine(folder, installed, requires, python=sys.executable) -> pathlib.Path:
  """Python of an environment whose packages are names, versions and requirements."""
  command = [str(python), "-m", "venv", "--without-pip", str(folder)]
  subprocess.run(command, check=True)
  (site,) = pathlib.Path(folder).glob("lib/python*/site-packages")
  for name, version in installed.items():
    place = site / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    text = _metadata(name, version, requires.get(f"{name}=={version}", ()))
    (place / "METADATA").write_text(text)
    (place / "INSTALLER").write_text("pip\n")
    (place / "RECORD").write_text("")
  return pathlib.Path(folder, "bin", "python")


def make_wheels(folder, requires: dict[str, list[str]]) -> str:
  """Folder of wheels without content: all packages in `requires`, and this one."""
  own = {"flowkd-jax==0": package_requirements()}
  pathlib.Path(folder).mkdir()
  for package, needed in (requires | own).items():
    name, _, version = package.partition("==")
    stem = f"{name.replace('-', '_')}-{version}"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(pathlib.Path(folder, f"{stem}-py3-none-any.whl"), "w") as file:
      file.writestr(f"{stem}.dist-info/METADATA", _metadata(name, version, needed))
      file.writestr(f"{stem}.dist-info/WHEEL", tag)
      file.writestr(f"{stem}.dist-info/RECORD", "")
  return folder


def would_install(python: pathlib.Path, asked: list[str], *, wheels=None) -> list[dict]:
  """Metadata of the packages that pip would install into the environment.

  With `wheels`, a folder, pip sees nothing else: no index, no configuration.
  """
  environment, places = dict(os.environ), []
  if wheels is not None:
    environment = {k: v for k, v in environment.items() if not k.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = os.devnull
    places = ["--no-index", "--find-links", str(wheels)]
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder, "report.json")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--dry-run"]
    command = [*pip, "--quiet", "--no-input", "--report", str(report), *places, *asked]
    done = subprocess.run(
      command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
      raise RuntimeError(f"pip could not resolve {asked}: {done.stderr[-3000:]}")
    return [entry["metadata"] for entry in json.loads(report.read_text())["install"]]


def versions(metadata: list[dict]) -> dict[str, str]:
  """Version of each package."""
  return {canonicalize_name(one["name"]): one["version"] for one in metadata}


def _metadata(name, version, requires):
  extras = {extra for needed in requires for extra in _EXTRA.findall(needed)}
  lines = [f"Requires-Dist: {needed}\n" for needed in requires]
  lines += [f"Provides-Extra: {extra}\n" for extra in sorted(extras)]
  return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(lines)
