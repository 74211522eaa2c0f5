"""Report: one HTML page that shows and compares finished or running jobs.

    flowkd report runs/digits
    flowkd report runs/a runs/b --output=comparison.html

The page is a single file without scripts. It has tables, the settings that differ, and
the pictures of all runs side by side. For more than six runs it shows means and ranges.
"""

import dataclasses
from pathlib import Path
from typing import Any

from flowkd_jax import _files
from flowkd_jax import report
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import places

__all__ = [
  "Config",
  "configure",
  "run",
]


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the page."""

  workdirs: tuple[str, ...] = fields.setting(
    (),
    "Work directories of finished or running jobs. They can also be given without the "
    "flag: flowkd report DIR DIR ...",
    required=True,
    place=places.FOLDER,
  )
  output: str = fields.setting(
    "",
    "HTML file to write. Without the flag: report.html in the first work directory.",
    place=places.NEW_FILE,
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If no work directory is given, or one cannot be read.
  """
  config = fields.configured(Config, given)
  if not config.workdirs:
    raise ValueError("--workdirs: expected at least one work directory, got none")
  return config


def run(config: Config) -> None:
  """Write the page and print its path."""
  output = Path(config.output or Path(config.workdirs[0]) / "report.html")
  _files.write_text(output, report.report_page(config.workdirs))
  print(output)
