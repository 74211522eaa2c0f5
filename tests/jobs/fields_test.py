"""Settings as fields of a dataclass."""

import dataclasses

import pytest

from flowkd_jax.jobs import fields
from flowkd_jax.jobs import places


@dataclasses.dataclass(frozen=True)
class _Config:
  epochs: int = fields.setting(3, "Passes over the data.", least=1)
  ranks: tuple[int, ...] = fields.setting((1,), "Ranks.", least=1)
  folder: str = fields.setting("", "A folder.", place=places.PERHAPS_FOLDER)
  folders: tuple[str, ...] = fields.setting((), "More.", place=places.PERHAPS_FOLDER)


def test_setting_keeps_help_and_limits_beside_its_default():
  field = dataclasses.fields(_Config)[0]
  assert field.default == 3
  assert field.metadata["help"] == "Passes over the data."
  assert not field.metadata["required"]
  assert field.metadata["limits"].least == 1


def test_configured_takes_later_layers_over_earlier_ones():
  config = fields.configured(_Config, {"epochs": 5, "ranks": (2,)}, {"epochs": 7})
  assert (config.epochs, config.ranks, config.folder) == (7, (2,), "")
  assert fields.configured(_Config) == _Config()


def test_configured_reads_whole_numbers_from_words():
  assert fields.configured(_Config, {"ranks": ("1", "10")}).ranks == (1, 10)
  with pytest.raises(ValueError, match="--ranks: expected whole numbers, .* got 1,x"):
    fields.configured(_Config, {"ranks": ("1", "x")})


def test_configured_puts_the_home_directory_in_paths(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  given = {"folder": "~/runs", "folders": ("~", "a~b")}
  config = fields.configured(_Config, given)
  assert config.folder == str(tmp_path / "runs")
  assert config.folders == (str(tmp_path), "a~b")


def test_configured_refuses_values_beyond_their_limits():
  with pytest.raises(ValueError, match="--epochs: expected 1 or more, got 0"):
    fields.configured(_Config, {"epochs": 0})


def test_new_names_replace_old_ones_and_keep_the_rest():
  before = {"telemetry": True, "initial_weight": 5.0, "seed": 1}
  now = {"diagnostics": True, "flow_weight_init": 5.0, "seed": 1}
  assert fields.with_new_names(before) == now
  assert fields.with_new_names(now) == now
