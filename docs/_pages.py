"""Pages that are written elsewhere: README, results, notebooks, docstrings.

A hook of MkDocs. A page per loss and per method, one per room of the package, one per
notebook; and the navigation over all of them.
"""

import json
import pkgutil
import posixpath
import re
from pathlib import Path

import nbformat
from mkdocs.structure.files import File

import flowkd_jax
from flowkd_jax import losses
from flowkd_jax import methods

ROOT = Path(__file__).parents[1]
# Page: the file it is made of.
INCLUDED = {
  "index.md": "README.md",
  "results.md": "experiments/RESULTS.md",
  "measured_losses.md": "experiments/LOSSES.md",
  "measured_loop.md": "experiments/LOOP.md",
  "measured_growth.md": "experiments/GROWTH.md",
  "changelog.md": "CHANGELOG.md",
  "contributing.md": ".github/CONTRIBUTING.md",
}
GUIDES = (
  "install.md",
  "launching.md",
  "work_directory.md",
  "bring_your_model.md",
  "from_pytorch.md",
  "losses_by_kind.md",
  "loss_names.md",
  "extend.md",
  "several_hosts.md",
  "questions.md",
  "design.md",
)
# Pages of `methods` that are parts of methods, and no method.
PARTS_OF_METHODS = (
  "averaged",
  "distillation",
  "latent_generator",
  "method",
  "micro_batches",
  "named_losses",
  "optimizers",
  "tap_roles",
  "trajectory",
)
PAGES_OF_THEIR_OWN = ("losses", "methods")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config):
  """Sets the navigation."""
  config.nav = [
    {"Overview": "index.md"},
    {"Notebooks": [f"notebooks/{path.stem}.md" for path in _notebooks()]},
    {"Guides": list(GUIDES)},
    {
      "Results": [
        "results.md",
        "measured_losses.md",
        "measured_loop.md",
        "measured_growth.md",
      ]
    },
    {"Losses": ["losses/index.md", *(f"losses/{page}.md" for page in _loss_pages())]},
    {"Methods": ["methods/index.md", *_method_pages(parts=False)]},
    {"Parts of methods": _method_pages(parts=True)},
    {"Reference": [f"reference/{room}.md" for room in _rooms()]},
    {"Changelog": "changelog.md"},
    {"Contributing": "contributing.md"},
  ]
  return config


def on_files(files, config):
  """Adds the pages to those that are written in this folder."""
  pages = {page: _included(source) for page, source in INCLUDED.items()}
  for path in _notebooks():
    pages[f"notebooks/{path.stem}.md"] = _notebook(path)
  pages["losses/index.md"] = _loss_table()
  for page, names in _loss_pages().items():
    blocks = [f"::: flowkd_jax.losses.{name}" for name in names]
    pages[f"losses/{page}.md"] = "\n\n".join([f"# {page}", *blocks])
  pages["methods/index.md"] = _module("Methods", "methods", members=False)
  for page, names in _methods().items():
    about = _module(page, f"methods._{page}", members=False)
    blocks = [f"::: flowkd_jax.methods.{name}" for name in names]
    pages[f"methods/{page}.md"] = "\n\n".join([about, *blocks])
  for room in _rooms():
    pages[f"reference/{room}.md"] = _module(room, room)
  for page, text in pages.items():
    files.append(File.generated(config, page, content=text))
  for path in (ROOT / "experiments" / "results").rglob("*.png"):
    name = path.relative_to(ROOT / "experiments").as_posix()
    files.append(File.generated(config, name, abs_src_path=str(path)))
  return files


def _notebooks() -> list[Path]:
  return sorted((ROOT / "colab").glob("*.ipynb"), reverse=True)


def _rooms() -> list[str]:
  names = sorted(room.name for room in pkgutil.iter_modules(flowkd_jax.__path__))
  return [n for n in names if n[0] != "_" and n not in PAGES_OF_THEIR_OWN]


def _method_pages(*, parts: bool) -> list[str]:
  """Pages of methods, or of what methods are made of."""
  return [
    f"methods/{name}.md" for name in _methods() if (name in PARTS_OF_METHODS) == parts
  ]


def _methods() -> dict[str, list[str]]:
  """Functions and classes of each page, by the file that defines them."""
  pages: dict[str, list[str]] = {}
  for name in sorted(methods.__all__):
    room, _, file = getattr(getattr(methods, name), "__module__", "").rpartition("._")
    if room == methods.__name__:
      pages.setdefault(file, []).append(name)
  return dict(sorted(pages.items()))


def _loss_pages() -> dict[str, list[str]]:
  """Names on each page: a loss, and after it what its name begins."""
  pages: dict[str, list[str]] = {}
  for name in sorted(losses.__all__):
    owner = next((page for page in pages if name.startswith(f"{page}_")), name)
    pages.setdefault(owner, []).append(name)
  return pages


def _module(title: str, module: str, *, members: bool = True) -> str:
  options = {"show_root_heading": False} | ({} if members else {"members": False})
  return f"# {title}\n\n::: flowkd_jax.{module}\n    options: {json.dumps(options)}"


def _loss_table() -> str:
  """All losses, each with the first line of its docstring."""
  rows = ["# Losses", losses.__doc__ or "", "| loss | |\n|---|---|"]
  for page, names in _loss_pages().items():
    for name in names:
      about = (getattr(losses, name).__doc__ or "").splitlines()[0]
      rows[-1] += f"\n| [{name}]({page}.md#flowkd_jax.losses.{name}) | {about} |"
  return "\n\n".join(rows)


def _included(source: str) -> str:
  """The text of a file, with links from its place made links from the page's."""
  places = {path: name for name, path in INCLUDED.items()}
  places |= {f"colab/{path.name}": f"notebooks/{path.stem}.md" for path in _notebooks()}
  places |= {f"docs/{name}": name for name in GUIDES}

  def moved(match):
    image, text, target, anchor = match.groups()
    if ":" in target:  # elsewhere
      return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if not (ROOT / path).exists():
      raise FileNotFoundError(f"{source} links to {target}, which does not exist")
    if path in places:
      return f"{image}[{text}]({places[path]}{anchor or ''})"
    # Pictures are on the site; other files are in the repository only.
    return f"![{text}]({path.removeprefix('experiments/')})" if image else text

  return _LINK.sub(moved, (ROOT / source).read_text())


def _notebook(path: Path) -> str:
  """The notebook as text and code, as it is kept: without outputs."""
  parts = []
  for cell in nbformat.read(path, as_version=4).cells:
    code = cell.cell_type == "code"
    parts.append(f"```python\n{cell.source}\n```" if code else cell.source)
  return "\n\n".join(parts)
