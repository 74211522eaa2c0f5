"""The examples of the guide to extensions run, in their order."""

import pathlib
import re

import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "extend.md"
SECTIONS = (
  "A method from loss terms",
  "A method from a loss",
  "A batch that is larger than its memory",
  "A loss that is right on several devices",
  "A kernel",
  "A divergence",
  "A model",
)


@pytest.mark.slow
@pytest.mark.optimizer
def test_examples_run_in_their_order(capsys):
  titles, names = [], {}
  for section in PAGE.read_text().split("\n## "):
    titles.append(section.splitlines()[0])
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert blocks, titles[-1]
    for block in blocks:
      exec(compile(block, f"{PAGE.name}: {titles[-1]}", "exec"), names)
  assert tuple(titles[1:]) == SECTIONS
  assert np.isfinite(names["loss"])
  assert "hidden" in capsys.readouterr().out
