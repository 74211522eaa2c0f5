"""Packages of the extra `flowkd_jax[train]`, which the core does not need."""

import importlib.util
from collections.abc import Sequence

# Packages that each subpackage imports when it is imported, or always needs.
ROOMS = {
  "models": ("flax",),
  "capture": ("flax",),
  "data": (),  # batches of arrays in memory need the core alone
  "evaluation": (),
  "teacher_cache": ("flax",),
  "methods": ("flax",),
  "train": ("flax", "filelock", "orbax.checkpoint", "rich", "tensorboardX"),
  "report": ("rich", "matplotlib", "jinja2", "tabulate"),
}
COMMANDS = (
  *("absl", "filelock", "flax", "grain", "jinja2", "matplotlib", "orbax.checkpoint"),
  *("PIL", "rich", "scipy", "sklearn", "tabulate", "tensorboardX"),
  "tensorflow_datasets",
)


def require(user: str, packages: tuple[str, ...] | None = None) -> None:
  """Checks that packages of the extra are installed.

  Args:
    user: Subpackage of `flowkd_jax` that needs them, such as "methods".
    packages: Names under which the packages are imported. The default is `ROOMS[user]`.

  Raises:
    ModuleNotFoundError: If a package is missing. The message says what to install.
  """
  lacking = missing(ROOMS[user] if packages is None else packages)
  if lacking:
    raise ModuleNotFoundError(advice(f"flowkd_jax.{user}", lacking), name=lacking[0])


def advice(user: str, lacking: Sequence[str]) -> str:
  """Message that names missing packages and says what to install.

  Args:
    user: Module or command that needs the packages.
    lacking: Names of the missing packages.
  """
  others = " and others" if len(lacking) > 3 else ""
  return (
    f"{user} needs {', '.join(lacking[:3])}{others}, which the core installation "
    'leaves out; install the extra: pip install "flowkd_jax[train]"'
  )


def missing(packages: tuple[str, ...]) -> list[str]:
  """Names of the packages that are not installed. No package is imported."""
  return [name for name in packages if not _is_installed(name)]


def _is_installed(name: str) -> bool:
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:  # of a dotted name, the first package is missing
    return False
