"""Pages that are written elsewhere: README, results, notebooks, docstrings.

A hook of MkDocs. A page per loss and per method, one per room of the package, one per
notebook; and the navigation over all of them.
"""

import json
import pkgutil
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

import _docstrings
import _notebooks
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
FIRST = ("install.md", "launching.md", "work_directory.md", "questions.md")
GUIDES = (
  "bring_your_model.md",
  "bring_your_data.md",
  "from_pytorch.md",
  "extend.md",
  "several_hosts.md",
)
OTHERS = ("losses_by_kind.md", "loss_names.md", "design.md")
RESULTS = (
  "results.md",
  "measured_losses.md",
  "measured_loop.md",
  "measured_growth.md",
)
# Rooms of the package by what a reader looks for; losses and methods have pages of
# their own.
REFERENCE = {
  "Numerical core": (
    "kernels",
    "information",
    "flow",
    "schedules",
    "pooling",
    "parallel",
  ),
  "Networks and data": ("capture", "models", "data", "teacher_cache", "evaluation"),
  "Training and jobs": ("train", "report", "jobs", "cli"),
}
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
_ROW = re.compile(r"^\| `(.*)$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config):
  """Sets the navigation."""
  kinds = {kind: _paths("losses", pages) for kind, pages in _loss_kinds().items()}
  reference = {room: _paths("reference", names) for room, names in _reference().items()}
  config.nav = [
    {"Start": ["index.md", *FIRST, {"Notebooks": _paths("notebooks", _stems())}]},
    {"Guides": list(GUIDES)},
    {"Losses": ["losses/index.md", "losses_by_kind.md", "loss_names.md", *_nav(kinds)]},
    {"Methods": ["methods/index.md", *_method_pages(parts=False)]},
    {"Results": list(RESULTS)},
    {"Reference": [*_nav(reference), {"Parts of methods": _method_pages(parts=True)}]},
    {"Project": ["design.md", "contributing.md", "changelog.md"]},
  ]
  return config


def on_page_markdown(markdown, **others):
  """Links papers of arXiv in every page."""
  del others
  return _docstrings.linked(markdown)


def on_files(files, config):
  """Adds the pages to those that are written in this folder."""
  pages = {page: _included(source) for page, source in INCLUDED.items()}
  for path in _notebooks.paths():
    pages[f"notebooks/{path.stem}.md"] = _notebooks.page(path)
  pages["losses/index.md"] = _loss_table()
  for page, names in _loss_pages().items():
    blocks = [f"::: flowkd_jax.losses.{name}" for name in names]
    about = _about_loss(page)
    pages[f"losses/{page}.md"] = "\n\n".join([f"# {page}", *about, *blocks])
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


def _nav(groups: dict[str, list[str]]) -> list[dict[str, list[str]]]:
  return [{title: pages} for title, pages in groups.items()]


def _paths(folder: str, names: Iterable[str]) -> list[str]:
  return [f"{folder}/{name}.md" for name in names]


def _stems() -> list[str]:
  return [path.stem for path in _notebooks.paths()]


def _rooms() -> list[str]:
  names = sorted(room.name for room in pkgutil.iter_modules(flowkd_jax.__path__))
  return [n for n in names if n[0] != "_" and n not in PAGES_OF_THEIR_OWN]


def _reference() -> dict[str, tuple[str, ...]]:
  """Rooms by group.

  Raises:
    ValueError: If a room of the package is in no group.
  """
  grouped = {room for rooms in REFERENCE.values() for room in rooms}
  if grouped != set(_rooms()):
    raise ValueError(
      f"REFERENCE in docs/_pages.py: expected the rooms {_rooms()}, got "
      f"{sorted(grouped)}; put each into one group"
    )
  return REFERENCE


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


def _loss_kinds() -> dict[str, list[str]]:
  """Pages of losses by the headings of `losses_by_kind.md`, the others at last."""
  text = (ROOT / "docs" / "losses_by_kind.md").read_text()
  left, kinds = list(_loss_pages()), {}
  for section in text.split("\n## ")[1:]:
    cells = [row.split("|")[0] for row in _ROW.findall(section)]
    names = [name for cell in cells for name in re.findall(r"\w+", cell)]
    pages = [page for page in left if page in names]
    if pages:
      kinds[section.splitlines()[0]] = pages
    left = [page for page in left if page not in pages]
  return {**kinds, "Labels and sums": left}


def _about_loss(page: str) -> list[str]:
  """Row of the loss in `losses_by_kind.md` as a line, if it has one."""
  text = (ROOT / "docs" / "losses_by_kind.md").read_text()
  headings, paper = [], ""
  for line in text.splitlines():
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if cells[0] == "loss":
      headings = cells
    elif line.startswith("| `"):
      row = dict(zip(headings, cells, strict=True))
      paper = row["paper"] if row["paper"] != "the same paper" else paper
      row["paper"] = "" if paper == "see its page" else paper
      if f"`{page}`" in row.pop("loss"):
        facts = [
          f"**{title.capitalize()}:** {fact}" for title, fact in row.items() if fact
        ]
        return ["  \n".join(facts)]
  return []


def _module(title: str, module: str, *, members: bool = True) -> str:
  options = {"show_root_heading": False, "show_root_toc_entry": False} | (
    {} if members else {"members": False}
  )
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
  places |= {f"colab/{stem}.ipynb": f"notebooks/{stem}.md" for stem in _stems()}
  places |= {f"docs/{name}": name for name in (*FIRST, *GUIDES, *OTHERS)}

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
