"""Looks at the built site in a headless browser, from a server and from files.

    python docs/_browser.py            # checks build/site
    python docs/_browser.py --install  # gets a browser, if this machine has none

Each of `PAGES` is opened at each of `WIDTHS`. It may write no error to the console, ask
no other host, miss no file, nor be wider than the window; its equations have to be
drawn, and the search has to find something. All other pages with equations are opened
once. The exit status is 0, or 1 with a line for
each fault, or 3 if there is no browser, no playwright or no site.
"""

import argparse
import contextlib
import functools
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple
from urllib.parse import urlsplit

SITE = Path(__file__).parents[1] / "build" / "site"
PAGES = (
  "index.html",
  "losses/pkt.html",
  "methods/information_flow.html",
  "results.html",
)
WITH_EQUATIONS = ("losses/pkt.html", "methods/information_flow.html")
WIDTHS = (1280, 390)
QUERY = "neighbour"
NONE = 3  # exit status where there is nothing to check with
_PATIENCE = 20_000  # milliseconds; a loaded machine takes a while to index the search
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MEASURE = """() => ({
  width: document.documentElement.scrollWidth,
  equations: document.querySelectorAll(".arithmatex").length,
  drawn: document.querySelectorAll(".arithmatex .katex").length,
  wrong: [...document.querySelectorAll(".katex-error")].map(e => e.title),
})"""


class MissingError(Exception):
  """The check cannot be made; the message says what is missing."""


class Seen(NamedTuple):
  """Observations on one page.

  Attributes:
    title: Page, width and address scheme, for people.
    window: Width of the window in pixels.
    width: Width of the page in pixels.
    errors: Lines of the console that are errors, and exceptions.
    elsewhere: Addresses on other hosts that the page asked for.
    missing: Addresses that were not answered.
    equations: Number of equations, marked and drawn.
    wrong: Messages about equations that could not be drawn.
    found: Number of results of the search; None if it was not tried.
    needs_equations: Whether the page has to have an equation.
  """

  title: str
  window: int
  width: int
  errors: tuple[str, ...] = ()
  elsewhere: tuple[str, ...] = ()
  missing: tuple[str, ...] = ()
  equations: tuple[int, int] = (0, 0)
  wrong: tuple[str, ...] = ()
  found: int | None = None
  needs_equations: bool = False


def faults(seen: Seen) -> list[str]:
  """One line for each fault of a page."""
  marked, drawn = seen.equations
  lines = [f"console: {line}" for line in seen.errors]
  lines += [f"asks another host: {address}" for address in seen.elsewhere]
  lines += [f"not found: {address}" for address in seen.missing]
  lines += [f"equation: {message}" for message in seen.wrong]
  if seen.width > seen.window:
    lines.append(f"{seen.width} pixels wide in a window of {seen.window}")
  if marked != drawn:
    lines.append(f"{drawn} of {marked} equations are drawn")
  if seen.needs_equations and not marked:
    lines.append("has no equation")
  if seen.found == 0:
    lines.append(f"the search for {QUERY!r} finds nothing")
  return [f"{seen.title}: {line}" for line in lines]


def browser_path() -> str | None:
  """Program of a browser: $BROWSER_PATH, playwright's own, or one of the machine."""
  given = os.environ.get("BROWSER_PATH")
  if given:
    return given
  programs = [_own_browser(), *map(shutil.which, _BROWSERS)]
  return next((program for program in programs if program and _starts(program)), None)


def _own_browser() -> str | None:
  """Program that playwright would install, if playwright is here."""
  if not importlib.util.find_spec("playwright"):
    return None
  from playwright.sync_api import sync_playwright

  with sync_playwright() as playwright:
    return playwright.chromium.executable_path


def _starts(program: str) -> bool:
  """Returns whether a program can open a page.

  A stub cannot, nor can a browser without its libraries or one that the machine does
  not let start.
  """
  command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
  try:
    done = subprocess.run(
      [*command, "about:blank"], check=False, timeout=60, capture_output=True
    )
  except (OSError, subprocess.TimeoutExpired):
    return False
  return done.returncode == 0 and b"<html" in done.stdout


def install() -> None:
  """Gets a browser by playwright, by Debian's packages, or by both."""
  by_playwright = [sys.executable, "-m", "playwright", "install"]
  ways = [[*by_playwright, "chromium"]]
  if shutil.which("apt-get"):
    ways += [["apt-get", "update"], ["apt-get", "install", "--yes", "chromium"]]
    ways += [[*by_playwright, "--with-deps", "chromium"]]
  for way in ways:
    if browser_path():
      return
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
      subprocess.run(way, check=False, timeout=300, stdout=subprocess.DEVNULL)


def check(site: Path) -> list[str]:
  """Faults of all pages of a site.

  Raises:
    MissingError: If there is no site, no playwright or no browser.
  """
  if not (site / "index.html").exists():
    raise MissingError(f"no site in {site}: run `make docs` first")
  if not importlib.util.find_spec("playwright"):
    raise MissingError("no playwright: run `pip install --group docs-check`")
  program = browser_path()
  if program is None:
    raise MissingError(
      "no browser: run `make docs-browser`, or install Chromium and name it in "
      "BROWSER_PATH"
    )
  found = []
  with _opened(program) as browser, _served(site) as address:
    for root in (address, site.resolve().as_uri()):
      for width in WIDTHS:
        for page in PAGES:
          found += faults(look(browser, root, page, width))
    for page in _with_equations(site):
      seen = look(browser, site.resolve().as_uri(), page, WIDTHS[0], search=False)
      found += faults(seen)
  return found


def _with_equations(site: Path) -> list[str]:
  """All pages that have an equation, but for `PAGES`."""
  names = [
    file.relative_to(site).as_posix()
    for file in sorted(site.rglob("*.html"))
    if 'class="arithmatex"' in file.read_text()
  ]
  return [name for name in names if name not in PAGES]


def look(
  browser: Any, root: str, name: str, width: int, *, search: bool = True
) -> Seen:
  """Opens a page of the site at `root` in a new window, and searches from it."""
  errors, asked, missing = [], [], []
  page = browser.new_page(viewport={"width": width, "height": 800})
  page.on("console", lambda line: _is_error(line) and errors.append(line.text))
  page.on("pageerror", lambda error: errors.append(str(error)))
  page.on("request", lambda request: asked.append(request.url))
  page.on("requestfailed", lambda request: missing.append(request.url))
  page.on("response", lambda r: r.status >= 400 and missing.append(r.url))
  page.set_default_timeout(_PATIENCE)
  try:
    page.goto(f"{root}/{name}", wait_until="networkidle")
  except _error() as error:
    errors.append(str(error).splitlines()[0])
  marked = page.locator(".arithmatex").count()
  if marked:
    with contextlib.suppress(_timeout()):
      page.wait_for_selector(".arithmatex .katex")
  measured = page.evaluate(_MEASURE)
  found = _search(page) if search else None
  page.close()
  hosts = (urlsplit(root).netloc, "")
  return Seen(
    title=f"{name} at {width} px, {urlsplit(root).scheme}",
    window=width,
    width=measured["width"],
    errors=tuple(errors),
    elsewhere=tuple(url for url in asked if urlsplit(url).netloc not in hosts),
    missing=tuple(missing),
    equations=(measured["equations"], measured["drawn"]),
    wrong=tuple(measured["wrong"]),
    found=found,
    needs_equations=name in WITH_EQUATIONS,
  )


def _search(page: Any) -> int:
  """Number of results that the search of the page shows for `QUERY`."""
  with contextlib.suppress(_timeout()):
    page.locator("label[for=__search]").first.dispatch_event("click")
    page.locator(".md-search__input").press_sequentially(QUERY)
    page.wait_for_selector(".md-search-result__item")
  return page.locator(".md-search-result__item").count()


def _is_error(line: Any) -> bool:
  return line.type == "error"


def _error() -> type[Exception]:
  from playwright.sync_api import Error as PlaywrightError

  return PlaywrightError


def _timeout() -> type[Exception]:
  from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

  return PlaywrightTimeoutError


@contextlib.contextmanager
def _opened(program: str) -> Iterator[Any]:
  from playwright.sync_api import sync_playwright

  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=program)
    yield browser
    browser.close()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
  """Serves files without a line for each."""

  def log_message(self, *_) -> None:
    pass


@contextlib.contextmanager
def _served(site: Path) -> Iterator[str]:
  """Serves the site on a free port of this machine."""
  handler = functools.partial(_QuietHandler, directory=str(site))
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  yield f"http://127.0.0.1:{server.server_port}"
  server.shutdown()
  server.server_close()


def main(arguments: list[str] | None = None) -> int:
  """Checks a site, or gets a browser; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("site", nargs="?", type=Path, default=SITE)
  parser.add_argument("--install", action="store_true", help="get a browser")
  given = parser.parse_args(arguments)
  if given.install:
    install()
    program = browser_path()
    print(f"docs-browser: {program or 'no browser could be installed'}")
    return 0 if program else NONE
  try:
    found = check(given.site)
  except MissingError as missing:
    print(f"docs-check: {missing}")
    return NONE
  for line in found:
    print(f"docs-check: {line}")
  print(f"docs-check: {len(found)} faults")
  return 1 if found else 0


if __name__ == "__main__":
  sys.exit(main())
