"""Tables in Markdown."""

from flowkd_jax import report


def test_markdown_table_aligns_columns_and_escapes_bars():
  table = report.markdown_table(["name", "x"], [["a|b", "1.50"], ["", "–"]])
  assert table.splitlines() == [
    "| name   |    x |",
    "|:-------|-----:|",
    r"| a\|b   | 1.50 |",
    "|        |    – |",
  ]


def test_markdown_table_keeps_numbers_as_they_are_written():
  table = report.markdown_table(["a", "b"], [["1", "2.10"], ["01", "1e3"]], left=0)
  assert [line.split() for line in table.splitlines()[2:]] == [
    ["|", "1", "|", "2.10", "|"],
    ["|", "01", "|", "1e3", "|"],
  ]


def test_markdown_table_without_rows_has_headings_alone():
  assert len(report.markdown_table(["name", "x"], []).splitlines()) == 2
