import io
import re

import pytest
from rich.console import Console

from flowkd_jax import report


def _text(table, width=120):
  console = Console(file=io.StringIO(), width=width, color_system=None)
  console.print(table)
  return console.file.getvalue()


def _row(text, name):
  (line,) = [line for line in text.splitlines() if name in line]
  return line


def test_network_table_shows_every_number(results):
  row = _row(_text(report.network_table(results)), "student, labels only")
  numbers = "15,050 71.54 60.00 61.12 52.00 54.00 57.12 59.12 3,025"
  assert row.split()[3:] == numbers.split()


def test_network_table_shows_the_authors_variant(results):
  text = _text(report.network_table(results, authors=True))
  row = _row(text, "student, labels only")
  numbers = "15,050 71.54 60.00 61.12 53.23 55.23 58.23 60.23 3,025"
  assert row.split()[3:] == numbers.split()
  assert "as the authors' code has them" in text


def test_network_table_has_dash_and_explanation_for_untrained_classifier(results):
  text = _text(report.network_table(results))
  assert "15,050     –" in _row(text, "student, information flow")
  assert "the classifier was not trained" in text


def test_network_table_explains_only_what_it_shows(results):
  text = _text(report.network_table(results[:2]))
  assert "not trained" not in text
  assert "–" not in text


@pytest.mark.parametrize("width", [80, 100, 120])
def test_network_table_keeps_every_number_in_narrow_logs(results, width):
  text = _text(report.network_table(results), width)
  assert "…" not in text
  assert max(map(len, text.splitlines())) <= width
  shown = re.findall(r"\d+\.\d\d", text)
  assert len(shown) == 3 + 5 * 6


@pytest.mark.parametrize("width", [80, 120])
def test_network_table_shows_validation_accuracy_where_it_was_measured(results, width):
  results[1]["validation_accuracy"] = 0.6543
  text = _text(report.network_table(results), width)
  assert "71.54 65.43 60.00" in " ".join(_row(text, "15,050 71.54").split())
  assert "val.: accuracy on the validation images" in " ".join(text.split())
  assert max(map(len, text.splitlines())) <= width
  del results[1]["validation_accuracy"]
  assert "val.:" not in _text(report.network_table(results))


def test_network_table_takes_the_largest_rank_and_none(results):
  for network in results:
    for found in network["retrieval"].values():
      found["precision_at"] = {"1": 0.5, "20": 0.25}
  assert "P@20" in _text(report.network_table(results))
  for network in results:
    network["retrieval"] = None
  assert "P@" not in _text(report.network_table(results))


def test_network_table_marks_the_best_of_equal_size(results):
  table = report.network_table(results)
  bold = [
    [str(cell.style) == "bold" for cell in column._cells] for column in table.columns
  ]
  by_network = dict(
    zip([n["name"] for n in results], zip(*bold, strict=True), strict=True)
  )
  assert not any(by_network["teacher"] + by_network["student_labels"])
  assert by_network["student"] == (False,) * 3 + (True,) * 6 + (False,)


def test_network_table_without_networks_has_headings_only():
  assert "network" in _text(report.network_table([]))


def test_network_table_does_not_read_titles_as_markup(results):
  results[0]["title"] = "teacher [bold]"
  assert "teacher [bold]" in _text(report.network_table(results))


def test_network_markdown_is_a_table_with_notes(results):
  results[0]["title"] = "teacher | old"
  lines = report.network_markdown(results).splitlines()
  table = [re.sub(" +", " ", line) for line in lines if line.startswith("|")]
  assert len(table) == 2 + len(results)
  cells = {len(re.split(r"(?<!\\)\|", line)) for line in table}
  assert cells == {len(report.network_table(results).columns) + 2}
  assert table[2].startswith(r"| teacher \| old | 11,173,962 | 95.12 | 96.00 |")
  assert table[-1].startswith("| student, information flow | 15,050 | – | **68.00** |")
  assert "the classifier was not trained" in lines[-1]


def test_the_best_epoch_is_set_apart_and_never_bold(results):
  chosen = [
    {**r, "best_test_epoch_accuracy": 0.9 + 0.01 * i} for i, r in enumerate(results)
  ]
  text = _text(report.network_table(chosen))
  assert "(best" in text
  assert "chosen on the test images; acc. is that of the last epoch" in " ".join(
    text.split()
  )
  assert "**90.00**" not in report.network_markdown(chosen)
  assert "(best" not in _text(report.network_table(results))
