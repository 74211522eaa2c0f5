"""The folder of compiled programs."""

import types

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flowkd_jax.cli import compilation


@pytest.fixture(autouse=True)
def restored(monkeypatch):
  """Nothing of the settings of the suite changes."""
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  names = ("jax_compilation_cache_dir", *compilation._OPTIONS)
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def _use(folder):
  compilation.use_folder(types.SimpleNamespace(compilation_cache=folder))
  return jax.config.jax_compilation_cache_dir


def test_default_folder_follows_xdg(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert compilation.default_folder() == tmp_path / "flowkd_jax" / "compiled"
  monkeypatch.setenv("XDG_CACHE_HOME", "relative")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  home = tmp_path / "home" / ".cache" / "flowkd_jax" / "compiled"
  assert compilation.default_folder() == home


def test_programs_are_kept_in_the_folder(tmp_path, monkeypatch):
  assert _use(str(tmp_path)).startswith(f"{tmp_path}/")
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.jit(lambda x: jnp.sin(x) * 41)(jnp.ones(3))
  (kept,) = tmp_path.glob("*/jit__lambda*-cache")
  assert kept.with_name(kept.name.removesuffix("-cache") + "-atime").exists()
  jax.clear_caches()
  time = kept.stat().st_mtime_ns
  jax.jit(lambda x: jnp.sin(x) * 41)(jnp.ones(3))
  assert kept.stat().st_mtime_ns == time
  # What a kill cut short has no time beside it, and would fail at every start.
  cut = kept.with_name("cut-cache")
  cut.write_bytes(kept.read_bytes()[:9])
  _use(str(tmp_path))
  assert kept.exists()
  assert not cut.exists()


def test_folder_is_the_default_unless_a_flag_or_the_environment_names_one(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  default = tmp_path / "flowkd_jax" / "compiled"
  assert _use(None).startswith(str(default))
  assert default.stat().st_mode & 0o777 == 0o700
  assert _use("off") is None
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "other"))
  assert _use(None) is None  # JAX has read the variable itself.
  assert _use(str(tmp_path / "flag")).startswith(f"{tmp_path}/flag/")


def test_default_folder_that_others_may_write_to_is_not_used(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  (tmp_path / "flowkd_jax" / "compiled").mkdir(parents=True)
  (tmp_path / "flowkd_jax" / "compiled").chmod(0o777)
  before = jax.config.jax_compilation_cache_dir
  assert _use(None) == before
  assert "others may write to it" in capsys.readouterr().err
  # A home that cannot be written is no error.
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  (tmp_path / "file").write_text("")
  assert _use(None) == before
  assert not capsys.readouterr().err


def test_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="--compilation_cache: cannot write to .*file"):
    _use(str(tmp_path / "file"))
  with pytest.raises(ValueError, match="--compilation_cache: expected a folder or off"):
    _use(" ")
