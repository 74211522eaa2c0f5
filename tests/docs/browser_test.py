"""The check of the site: what it reports, and how it says that it cannot look."""

import importlib.util
import pathlib

import pytest

PLACE = pathlib.Path(__file__).parents[2] / "docs" / "_browser.py"


@pytest.fixture(scope="module")
def browser():
  spec = importlib.util.spec_from_file_location("browser_of_the_site", PLACE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _site(folder, body="<p>text</p>"):
  (folder / "index.html").write_text(
    f'<!doctype html><link rel="icon" href="data:,"><body>{body}</body>'
  )
  return folder


def test_faults_names_each_fault_of_a_page(browser):
  fine = browser.Seen("a page", window=390, width=390, equations=(2, 2), found=1)
  assert browser.faults(fine) == []
  wrong = fine._replace(
    width=500,
    errors=("x is not defined",),
    elsewhere=("https://host/a.js",),
    missing=("file:///b.css",),
    equations=(2, 1),
    wrong=("Expected }",),
    found=0,
  )
  assert browser.faults(wrong) == [
    "a page: console: x is not defined",
    "a page: asks another host: https://host/a.js",
    "a page: not found: file:///b.css",
    "a page: equation: Expected }",
    "a page: 500 pixels wide in a window of 390",
    "a page: 1 of 2 equations are drawn",
    "a page: the search for 'neighbour' finds nothing",
  ]
  bare = fine._replace(equations=(0, 0), needs_equations=True)
  assert browser.faults(bare) == ["a page: has no equation"]


def test_main_fails_by_name_without_a_site(browser, tmp_path, capsys):
  assert browser.main([str(tmp_path)]) == browser.NONE
  assert "no site in" in capsys.readouterr().out


def test_main_fails_by_name_without_playwright(browser, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(browser.importlib.util, "find_spec", lambda name: None)
  assert browser.main([str(_site(tmp_path))]) == browser.NONE
  assert "--group docs-check" in capsys.readouterr().out


def test_main_fails_by_name_without_a_browser(browser, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(browser.importlib.util, "find_spec", lambda name: object())
  monkeypatch.setattr(browser, "browser_path", lambda: None)
  assert browser.main([str(_site(tmp_path))]) == browser.NONE
  assert "make docs-browser" in capsys.readouterr().out


def test_install_tries_every_way_and_says_when_none_succeeds(
  browser, capsys, monkeypatch
):
  tried = []
  monkeypatch.setattr(browser, "browser_path", lambda: None)
  monkeypatch.setattr(browser.shutil, "which", lambda name: f"/usr/bin/{name}")
  monkeypatch.setattr(
    browser.subprocess, "run", lambda command, **_: tried.append(command)
  )
  assert browser.main(["--install"]) == browser.NONE
  assert ["apt-get", "install", "--yes", "chromium"] in tried
  assert "no browser could be installed" in capsys.readouterr().out


@pytest.mark.slow
def test_check_sees_a_page_that_is_too_wide_and_asks_another_host(
  browser, tmp_path, monkeypatch
):
  pytest.importorskip("playwright")
  if browser.browser_path() is None:
    pytest.skip("no browser on this machine")
  monkeypatch.setattr(browser, "PAGES", ("index.html", "gone.html"))
  monkeypatch.setattr(browser, "WIDTHS", (390,))
  monkeypatch.setattr(browser, "_PATIENCE", 500)
  body = '<div style="width: 700px">wide</div><script src="http://127.0.0.1:9/a.js">'
  equation = '<!doctype html><div class="arithmatex">x</div>'
  (tmp_path / "other.html").write_text(f'{equation}<link rel="icon" href="data:,">')
  seen = browser.check(_site(tmp_path, f"{body}</script><script>nothing()</script>"))
  expected = ("pixels wide in a window of 390", "another host", "nothing is", "search")
  for scheme in ("http", "file"):
    begin = f"index.html at 390 px, {scheme}: "
    lines = [line.removeprefix(begin) for line in seen if line.startswith(begin)]
    for fault in expected:
      assert any(fault in line for line in lines), f"{scheme}: {fault}"
  gone = [line for line in seen if line.startswith("gone.html at 390 px")]
  assert any("not found: http://" in line for line in gone)
  assert any("ERR_FILE_NOT_FOUND" in line for line in gone)
  assert "other.html at 390 px, file: 0 of 1 equations are drawn" in seen


def test_program_that_opens_no_page_is_no_browser(browser, tmp_path, monkeypatch):
  """A browser without its libraries, and one that starts but draws nothing."""
  monkeypatch.delenv("BROWSER_PATH", raising=False)
  monkeypatch.setattr(browser, "_own_browser", lambda: None)
  monkeypatch.setenv("PATH", str(tmp_path))
  program = tmp_path / "chromium"
  for script in ("#!/bin/sh\nexit 127\n", "#!/bin/sh\necho Chromium 1.0\n"):
    program.write_text(script)
    program.chmod(0o755)
    assert browser.browser_path() is None
  program.write_text("#!/bin/sh\necho '<html></html>'\n")
  assert browser.browser_path() == str(program)
