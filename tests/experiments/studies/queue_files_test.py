"""Files of runs in archives."""

import json

import pytest

from experiments.studies import queue_files


def test_paths_of_settings_are_those_of_the_machine(tmp_path):
  here, there = tmp_path / "a b", tmp_path / "there"
  here.mkdir()
  config = {"networks_from": f"{here}/study/1", "data_dir": "/data"}
  (here / "config.json").write_text(json.dumps(config))
  (here / "metrics.jsonl").write_text(f"{here}/study")
  content = queue_files.packed(here / "config.json", here)
  assert b"a b" not in content
  queue_files.write(there, "study/2/config.json", content, there)
  found = json.loads((there / "study" / "2" / "config.json").read_text())
  assert found == {"networks_from": f"{there}/study/1", "data_dir": "/data"}
  assert queue_files.packed(here / "metrics.jsonl", here) == f"{here}/study".encode()


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
  with pytest.raises(ValueError, match=f"expected files of runs .*, got {name}"):
    queue_files.write(tmp_path, name, b"", tmp_path)
