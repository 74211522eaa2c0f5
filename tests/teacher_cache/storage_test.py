"""The folder of a teacher's outputs: what is written, what is refused."""

import json
import os
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import _files
from flowkd_jax import teacher_cache

KEY = {"teacher": "a", "data": "b", "augmentation": [0, True, 4]}
SHAPES = {"logits": (3,), "taps/block/1": (2, 2, 1)}
RNG = np.random.default_rng(0)
OUTPUTS = {
  name: RNG.standard_normal((4, *shape)).astype(np.float32)
  for name, shape in SHAPES.items()
}
ROWS = np.array([5, 0, 3, 1])


def _cache(path, **options):
  options = {"key": KEY, "row_shapes": SHAPES, "num_examples": 6, **options}
  return teacher_cache.TeacherCache(path / "cache", **options)


def test_what_is_written_is_read_again_in_any_order(tmp_path):
  cache = _cache(tmp_path)
  assert cache.read(2, ROWS) is None
  cache.write(2, ROWS, OUTPUTS)
  again = _cache(tmp_path)
  found = again.read(2, ROWS[::-1])
  for name, rows in OUTPUTS.items():
    np.testing.assert_array_equal(found[name], rows[::-1])
  assert again.read(2, np.array([5, 4])) is None
  assert again.read(1, ROWS) is None
  assert again.has_epoch(2)
  assert not again.has_epoch(1)
  assert again.used_bytes == again.epoch_bytes == 6 * 4 * (3 + 4 + 2) + 4 * 128


def test_layout_is_the_documented_one(tmp_path):
  _cache(tmp_path).write(0, ROWS, OUTPUTS)
  folder = tmp_path / "cache"
  description = json.loads((folder / "cache.json").read_text())
  assert description["row_shapes"] == {"logits": [3], "taps/block/1": [2, 2, 1]}
  values = np.load(folder / "taps" / "block" / "1" / "00000.npy")
  np.testing.assert_array_equal(values[ROWS], OUTPUTS["taps/block/1"])
  sums = np.load(folder / "logits" / "00000.rows.npy")
  assert sums[4] == 0
  assert sums[5] == zlib.crc32(OUTPUTS["logits"][0].tobytes())


@pytest.mark.parametrize(
  ("stored_as", "rounded"), [("float16", np.float16), ("bfloat16", jnp.bfloat16)]
)
def test_half_precision_takes_half_the_disk(stored_as, rounded, tmp_path):
  cache = _cache(tmp_path, stored_as=stored_as)
  cache.write(0, ROWS, OUTPUTS)
  found = _cache(tmp_path, stored_as=stored_as).read(0, ROWS)["logits"]
  assert found.dtype == rounded
  np.testing.assert_array_equal(found, OUTPUTS["logits"].astype(rounded))
  values = (cache.epoch_bytes - 6 * 4 * 2 - 4 * 128) // 2
  assert values == 6 * (3 + 4)


def test_outputs_can_be_added_to_a_cache(tmp_path):
  _cache(tmp_path, row_shapes={"logits": (3,)}).write(0, ROWS, OUTPUTS)
  more = _cache(tmp_path)
  assert more.read(0, ROWS) is None
  more.write(0, ROWS, OUTPUTS)
  logits = _cache(tmp_path, row_shapes={"logits": (3,)}).read(0, ROWS)
  assert list(logits) == ["logits"]


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"key": {**KEY, "teacher": "z"}}, "holds other outputs .teacher: a there, z here"),
    ({"key": {**KEY, "augmentation": None}}, "augmentation: .0, True, 4. there, None"),
    ({"num_examples": 7}, "num_examples: 6 there, 7 here"),
    ({"stored_as": "float16"}, "stored_as: float32 there, float16 here"),
    ({"row_shapes": {"logits": (4,)}}, r"logits: rows of shape \(3,\) there, \(4,\)"),
    ({"stored_as": "int8"}, "stored_as: expected one of"),
  ],
)
def test_foreign_caches_are_refused(options, match, tmp_path):
  _cache(tmp_path)
  with pytest.raises(ValueError, match=match):
    _cache(tmp_path, **options)


def test_folders_of_other_things_are_refused(tmp_path):
  folder = tmp_path / "cache"
  folder.mkdir()
  (folder / "thesis.tex").write_text("")
  with pytest.raises(ValueError, match="expected a teacher cache or an empty folder"):
    _cache(tmp_path)
  (folder / "cache.json").write_text("{")
  with pytest.raises(
    ValueError, match="cache.json is damaged: it is not complete JSON"
  ):
    _cache(tmp_path)
  (folder / "cache.json").unlink()
  with pytest.raises(FileNotFoundError, match="expected a teacher cache, found no"):
    teacher_cache.describe_cache(folder)


def test_later_formats_are_refused(tmp_path):
  _cache(tmp_path)
  path = tmp_path / "cache" / "cache.json"
  content = _files.read_json(path, "")
  _files.write_json(path, {**content, "format": "flowkd_jax teacher cache 2"})
  with pytest.raises(ValueError, match="expected 'flowkd_jax teacher cache 1', got"):
    _cache(tmp_path)


def test_damaged_files_are_refused(tmp_path):
  _cache(tmp_path).write(0, ROWS, OUTPUTS)
  path = tmp_path / "cache" / "logits" / "00000.npy"
  content = bytearray(path.read_bytes())
  content[128 + 5 * 12] ^= 1  # one bit of example 5
  path.write_bytes(content)
  assert _cache(tmp_path).read(0, np.array([3])) is not None
  with pytest.raises(ValueError, match=r"00000.npy is damaged: rows do not match"):
    _cache(tmp_path).read(0, ROWS)
  path.write_bytes(content[:150])
  with pytest.raises(ValueError, match=r"00000.npy is damaged .*delete it"):
    _cache(tmp_path).read(0, ROWS)
  np.save(path, np.zeros((6, 2), np.float32))
  with pytest.raises(ValueError, match=r"expected float32 of shape \(6, 3\), got"):
    _cache(tmp_path).read(0, ROWS)
  path.unlink()
  assert _cache(tmp_path).read(0, ROWS) is None
  cache = _cache(tmp_path)
  cache.write(0, ROWS[:2], {name: rows[:2] for name, rows in OUTPUTS.items()})
  assert cache.read(0, ROWS) is None
  assert cache.read(0, ROWS[:2]) is not None


def test_outputs_that_do_not_fit_are_refused(tmp_path):
  cache = _cache(tmp_path, stored_as="float16")
  with pytest.raises(ValueError, match=r"expected taps/block/1 .* got nothing"):
    cache.write(0, ROWS, {"logits": OUTPUTS["logits"]})
  with pytest.raises(ValueError, match=r"expected logits of shape \(4, 3\), got \(3"):
    cache.write(0, ROWS, {**OUTPUTS, "logits": np.zeros((3, 3))})
  with pytest.raises(ValueError, match="logits is not finite as float16"):
    cache.write(0, ROWS, {**OUTPUTS, "logits": np.full((4, 3), 1e5)})
  assert cache.read(0, ROWS) is None


def test_full_disk_is_met_before_anything_is_written(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "posix_fallocate", full)
  cache = _cache(tmp_path)
  with pytest.raises(OSError, match="No space left"):
    cache.write(0, ROWS, OUTPUTS)
  assert not list((tmp_path / "cache").rglob("*.npy*"))
