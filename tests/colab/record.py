"""Records what Colab and Kaggle have installed: `make colab`.

    python -m tests.colab.record LISTS

LISTS is a clone of github.com/googlecolab/backend-info. For each machine pip resolves
the install cell against the package index, in an environment that has the published
versions installed. The requirements of all versions involved go to `colab.json`.
"""

import json
import shutil
import subprocess
import sys
import tempfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.colab import replay

# Revision and file of LISTS, and the version of Python. Kaggle builds its image for
# CPUs and GPUs on Colab's of 14 May 2026, and publishes no list for its TPUs.
MACHINES = {
  "colab_cpu": ("HEAD", "pip-freeze.txt", "3.13"),
  "colab_gpu": ("HEAD", "pip-freeze.gpu.txt", "3.13"),
  "colab_tpu": ("HEAD", "pip-freeze.tpu.txt", "3.13"),
  "kaggle_cpu": ("0f0755b", "pip-freeze.txt", "3.12"),
  "kaggle_gpu": ("0f0755b", "pip-freeze.gpu.txt", "3.12"),
}
# Options of pip: metadata of these versions, whatever is installed.
_PINNED = ("--no-deps", "--ignore-installed")


def main(lists: str) -> None:
  """Writes `colab.json`."""
  machines, requires = {}, {}
  for name, (revision, file, version) in MACHINES.items():
    installed = _pins(_git(lists, "show", f"{revision}:{file}"))
    known = requires.setdefault(version, {})
    _resolve(version, installed, known)
    names = {package.partition("==")[0] for package in known}
    kept = {package: installed[package] for package in installed if package in names}
    day = _git(lists, "log", "-1", "--format=%cs", revision)
    machines[name] = {"python": version, "list": day, "installed": kept}
  found = {
    "source": "https://github.com/googlecolab/backend-info",
    "machines": machines,
    "requires": {
      version: _plain(known, version) for version, known in requires.items()
    },
  }
  replay.FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def _git(folder, *command):
  done = subprocess.run(
    ["git", "-C", folder, *command], capture_output=True, text=True, check=True
  )
  return done.stdout.strip()


def _pins(text: str) -> dict[str, str]:
  """Versions in a list of `pip freeze`; packages from an address are left out."""
  lines = [line.split("==") for line in text.splitlines() if "==" in line]
  return {canonicalize_name(name): version.split("+")[0] for name, version in lines}


def _resolve(version, installed, known) -> None:
  """Resolves with the limit of JAX and without it, until no requirement is unknown."""
  python = shutil.which(f"python{version}")
  if python is None:
    raise SystemExit(f"python{version}: expected it on PATH, as the machine has it")
  asked = replay.asked_of_pip(replay.NOTEBOOK, installed)
  asked = [f"{replay.ROOT}[train]" if " @" in part else part for part in asked]
  resolved = False
  while _add_installed(python, installed, known, version) or not resolved:
    resolved = True
    with tempfile.TemporaryDirectory() as folder:
      machine = replay.make_machine(folder, installed, known, python)
      for parts in (asked, replay.without_limit(asked)):
        added = replay.would_install(machine, parts)
        _note(added, known)
        print(version, *parts, "->", replay.versions(added), flush=True)


def _add_installed(python, installed, known, version) -> bool:
  """Adds requirements of the installed packages that the known ones require."""
  size = len(known)
  with tempfile.TemporaryDirectory() as folder:
    machine = replay.make_machine(folder, {}, {}, python)
    while new := sorted(_pins_of_known(installed, known, version) - set(known)):
      _note(replay.would_install(machine, [*_PINNED, *new]), known)
  return len(known) > size


def _pins_of_known(installed, known, version) -> set[str]:
  own = {"": replay.package_requirements()}
  needed = [one for group in _plain(known | own, version).values() for one in group]
  names = {canonicalize_name(Requirement(one).name) for one in needed}
  return {f"{name}=={installed[name]}" for name in names if name in installed}


def _note(metadata, known):
  for one in metadata:
    if (name := canonicalize_name(one["name"])) != "flowkd-jax":
      known[f"{name}=={one['version']}"] = one.get("requires_dist", [])


def _plain(known, version) -> dict[str, list[str]]:
  """Requirements on Linux with this Python: no markers but of extras that are used."""
  place = {"python_version": version, "python_full_version": f"{version}.0"}
  # Names of extras, such as "all", are those of many packages: these are used here.
  used = ("train", "tpu", "cuda12", "with-cuda", "epath", "epy", "etree", "enp", "edc")

  def plain(text):
    one = Requirement(text)
    marker, one.marker = one.marker, None
    if marker is None or marker.evaluate({**place, "extra": ""}):
      return [str(one)]
    chosen = [extra for extra in used if marker.evaluate({**place, "extra": extra})]
    return [f'{one}; extra == "{extra}"' for extra in chosen]

  return {
    package: sorted(p for text in requirements for p in plain(text))
    for package, requirements in known.items()
  }


if __name__ == "__main__":
  main(*sys.argv[1:])
