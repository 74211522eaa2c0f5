"""Lists of commands and jobs, one line each."""

import pytest

from flowkd_jax.cli import overview

COMMANDS = {"train": "Trains " + "a network and then another " * 4, "doctor": "Looks."}


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_texts_are_wrapped_beside_their_names(columns, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", str(columns))
  overview.show_commands(COMMANDS, "1.2.3")
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("flowkd_jax 1.2.3: ")
  entries = lines[lines.index("commands:") + 1 :]
  entries = entries[: entries.index("")]
  assert max(map(len, entries)) <= max(columns, 40)
  assert {entry[:10].strip() for entry in entries} == {"train", "doctor"} | (
    {""} if columns < 200 else set()
  )
  train = [entry[10:] for entry in entries if entry[:10].strip() != "doctor"]
  assert " ".join(train) == COMMANDS["train"].strip()


def test_jobs_are_listed_with_their_usage(capsys):
  overview.show_jobs({"information_flow": "The paper's."})
  shown = capsys.readouterr().out
  assert shown.startswith("usage: flowkd train JOB --workdir=W [--flag=value ...]")
  assert "\njobs:\n  information_flow  The paper's.\n" in shown
