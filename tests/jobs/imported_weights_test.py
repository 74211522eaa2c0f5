"""Files of weights: every file that is not one is refused by the name of its flag."""

import pathlib
import zipfile

import jax
import numpy as np
import pytest

from experiments.benchmarks import teacher_cache
from experiments.studies import run
from flowkd_jax import models
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import imported_weights
from flowkd_jax.models import _torch
from flowkd_jax.models import _torch_names

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "torch_cnn.npz"


@pytest.fixture(scope="module")
def state():
  """PyTorch weights of a CNN1 of width 4, for images of 32 pixels."""
  with np.load(GOLDEN) as file:
    return {
      name.removeprefix("state/"): file[name]
      for name in file.files
      if name.startswith("state/")
    }


def _damaged(kind, state, path):
  """Writes a file that holds no weights of a CNN1 of width 4."""
  np.savez(path, **state)
  whole = path.read_bytes()
  if kind == "cut":
    path.write_bytes(whole[: len(whole) // 2])
  elif kind == "empty":
    path.write_bytes(b"")
  elif kind == "noise":
    path.write_bytes(bytes(range(256)) * 8)
  elif kind == "flipped":
    path.write_bytes(whole[:3000] + bytes([whole[3000] ^ 255]) + whole[3001:])
  elif kind == "words":
    np.savez(path, **state | {"fc2.bias": np.array(["a"])})
  elif kind == "objects":
    np.savez(path, **state | {"fc2.bias": np.array([{}], dtype=object)})
  elif kind == "one array":
    with path.open("wb") as file:
      np.save(file, state["fc2.bias"])
  elif kind == "other zip":
    with zipfile.ZipFile(path, "w") as file:
      file.writestr("a.txt", "text")
  elif kind == "NaN":
    np.savez(path, **state | {"fc2.bias": state["fc2.bias"] * np.float32("nan")})
  else:
    np.savez(path, **{name: np.float32(1) for name in state})


@pytest.mark.parametrize(
  "kind",
  [
    *("cut", "empty", "noise", "flipped", "words", "objects", "one array"),
    *("other zip", "NaN", "scalars"),
  ],
)
def test_files_without_weights_are_refused_before_any_work(kind, state, tmp_path):
  path = tmp_path / "weights.npz"
  _damaged(kind, state, path)
  with pytest.raises(ValueError, match="--auxiliary_checkpoint: .*weights.npz"):
    _configure(path, tmp_path)


def _configure(path, tmp_path, **options):
  given = {"auxiliary_network": "cnn1:4", **options}
  return flow_settings.configure(
    workdir=str(tmp_path / "run"), auxiliary_checkpoint=str(path), **given
  )


def test_weights_that_are_not_finite_are_refused_by_name(state, tmp_path):
  broken = np.where(np.arange(8) == 3, np.inf, state["conv2.bias"])
  np.savez(tmp_path / "weights.npz", **state | {"conv2.bias": broken})
  match = "--auxiliary_checkpoint: .*weights.npz: .* NaN or infinity in conv2.bias;"
  with pytest.raises(ValueError, match=match):
    _configure(tmp_path / "weights.npz", tmp_path)


@pytest.mark.slow
def test_weights_of_another_size_are_refused(state, tmp_path):
  path = tmp_path / "weights.npz"
  np.savez(path, **state)
  _configure(path, tmp_path, student_network="cnn1:4")
  with pytest.raises(ValueError, match="--auxiliary_checkpoint: .*shapes do not fit"):
    _configure(path, tmp_path, auxiliary_network="cnn1:8")
  with pytest.raises(ValueError, match="--auxiliary_network: model: expected a CNN"):
    _configure(path, tmp_path, auxiliary_network="vit")
  with pytest.raises(ValueError, match="--auxiliary_checkpoint: .* missing: layer1"):
    _configure(path, tmp_path, auxiliary_network="resnet8")


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"learn_from": "teacher"}, "--learn_from: expected auxiliary with --auxiliary_ch"),
    ({"networks_from": "."}, "--networks_from: expected"),
  ],
)
def test_flags_that_the_weights_replace_are_refused(options, match, state, tmp_path):
  path = tmp_path / "weights.npz"
  np.savez(path, **state)
  with pytest.raises(ValueError, match=match):
    _configure(path, tmp_path, **options)


def test_other_launchers_refuse_damaged_files_too(state, tmp_path):
  path = tmp_path / "weights.npz"
  _damaged("cut", state, path)
  with pytest.raises(ValueError, match="--auxiliary_checkpoint: expected a .npz file"):
    teacher_cache.configure(
      cache=str(tmp_path / "cache"), auxiliary_checkpoint=str(path)
    )
  with pytest.raises(ValueError, match="--auxiliary_checkpoint: expected a .npz file"):
    run.configure(study="cifar10", auxiliary_checkpoint=str(path))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["wrn_16_1:2", "vgg8:2", "mobilenet_v2:2"])
def test_weights_of_the_benchmark_bring_their_number_of_classes(network, tmp_path):
  model = models.by_name(network, num_classes=7)
  layers = _torch_names.layer_names(model)
  template = _torch._template(model, layers, side=1, channels=3)
  state = {}
  for name, (path, leaf) in template.items():
    shape = leaf.shape
    if path[-1] == "kernel":
      shape = (*shape[::-1][:2], *shape[:-2])
    state[f"module.{name}"] = np.ones(shape, np.float32)
  path = tmp_path / "weights.npz"
  np.savez(path, **state)
  imported_weights.check("--weights", str(path), "--network", network)
  found = imported_weights.variables("--weights", str(path), "--network", model)
  assert len(jax.tree.leaves(found)) == len(state)
