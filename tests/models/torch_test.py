import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax.models import CNN
from flowkd_jax.models import PreActResNet
from flowkd_jax.models import from_torch
from tests.models.tiny import TINY

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NETWORKS = {
  "torch_cnn.npz": CNN(width=4),
  "torch_resnet.npz": PreActResNet(stage_sizes=(2, 1, 1, 1), width=8),
}
# Thin networks of the CIFAR-100 benchmark, with all that the benchmark reads of them.
BENCHMARK = {
  "torch_resnet14x4.npz": models.cifar_resnet(14, width=8, stem_width=4),
  "torch_wrn_16_2.npz": models.wide_resnet(16, 2, width=4),
  "torch_vgg.npz": models.VGG(num_convolutions=(2, 1, 1, 1, 2), width=4),
  "torch_mobilenet_v2.npz": models.MobileNetV2(
    width=8, head_width=24, group_sizes=(1, 2, 2, 1, 1, 2, 1)
  ),
  "torch_shufflenet_v1.npz": models.ShuffleNetV1(width=36, stage_sizes=(2, 2, 2)),
  "torch_shufflenet_v2.npz": models.ShuffleNetV2(
    width=8, head_width=16, stage_sizes=(2, 3, 2)
  ),
  "torch_resnet50.npz": models.BottleneckResNet(stage_sizes=(2, 1, 1, 2), width=4),
}


def load(name):
  with np.load(GOLDEN / name) as file:
    arrays = dict(file)
  state = {
    key.removeprefix("state/"): value
    for key, value in arrays.items()
    if key.startswith("state/")
  }
  return arrays, state


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_from_torch_gives_the_same_activations(name):
  model = NETWORKS[name]
  arrays, state = load(name)

  @jax.jit
  def apply(variables, images):
    return model.apply(variables, images, train=False, mutable=["intermediates"])

  logits, sown = apply(from_torch(model, state), arrays["images"])
  np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5)
  for tap in model.taps:
    (actual,) = sown["intermediates"][tap]
    np.testing.assert_allclose(actual, arrays[f"tap/{tap}"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARK)
def test_from_torch_gives_the_same_logits_and_maps_for_the_benchmark(name):
  model = BENCHMARK[name]
  arrays, state = load(name)
  names = {key.removeprefix("tap/") for key in arrays if key.startswith("tap/")}
  assert names == {*model.maps, *model.preactivations, "pooled"}

  @jax.jit
  def apply(variables, images):
    return capture.apply_with_taps(model, variables, images, taps=sorted(names))

  logits, taps = apply(from_torch(model, state), arrays["images"])
  np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5)
  for tap in names:
    np.testing.assert_allclose(taps[tap], arrays[f"tap/{tap}"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch_cnn.npz", *BENCHMARK])
def test_from_torch_returns_what_init_returns(name):
  model = (NETWORKS | BENCHMARK)[name]
  arrays, state = load(name)
  variables = from_torch(model, state)
  expected = jax.eval_shape(model.init, jax.random.key(0), arrays["images"])
  assert jax.tree.map(lambda v: (v.shape, v.dtype), variables) == jax.tree.map(
    lambda v: (v.shape, v.dtype), expected
  )


class Tensor:
  """Like a PyTorch tensor on a GPU: no NumPy before detach and cpu."""

  def __init__(self, array):
    self._array = array

  def detach(self):
    return self

  def cpu(self):
    return self._array


class HalfTensor(Tensor):
  """Like a tensor of bfloat16, which NumPy does not know."""

  def cpu(self):
    return self

  def float(self):
    return self._array

  def __array__(self, *arguments, **options):
    raise TypeError("Got unsupported ScalarType BFloat16")


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "net.", "student."])
def test_from_torch_takes_a_prefix_of_all_names(prefix):
  _, state = load("torch_vgg.npz")
  model = BENCHMARK["torch_vgg.npz"]
  wrapped = {f"{prefix}{key}": HalfTensor(value) for key, value in state.items()}
  jax.tree.map(
    np.testing.assert_array_equal, from_torch(model, wrapped), from_torch(model, state)
  )


def test_from_torch_refuses_several_networks_in_one_state():
  _, state = load("torch_vgg.npz")
  both = {
    f"module.{k}.{n}": v for k in ("student", "teacher") for n, v in state.items()
  }
  with pytest.raises(
    ValueError, match="of one network, got whole ones under 'student.' and 'teacher.'; "
  ):
    from_torch(BENCHMARK["torch_vgg.npz"], {"epoch": 3, "model": both})


def test_from_torch_names_what_is_no_array():
  _, state = load("torch_vgg.npz")
  with pytest.raises(
    ValueError, match="an array under every name, got dict under 'opt"
  ):
    from_torch(BENCHMARK["torch_vgg.npz"], {**state, "optimizer": {"lr": 0.05}})


def test_from_torch_shortens_long_lists():
  _, state = load("torch_vgg.npz")
  with pytest.raises(
    ValueError,
    match=r"missing: .{0,500} and \d+ more; unexpected: .{0,500} and \d+ more",
  ):
    from_torch(models.by_name("resnet14"), state)


def test_from_torch_takes_tensors_and_data_parallel_names():
  _, state = load("torch_cnn.npz")
  model = NETWORKS["torch_cnn.npz"]
  wrapped = {f"module.{key}": Tensor(value) for key, value in state.items()}
  jax.tree.map(
    np.testing.assert_array_equal, from_torch(model, wrapped), from_torch(model, state)
  )


@pytest.mark.parametrize("key", ["model", "state_dict", "net", "model_state_dict"])
def test_from_torch_finds_the_state_in_a_checkpoint(key):
  _, state = load("torch_cnn.npz")
  model = NETWORKS["torch_cnn.npz"]
  wrapped = {"epoch": 240, "optimizer": {"state": {}}, key: state}
  jax.tree.map(
    np.testing.assert_array_equal, from_torch(model, wrapped), from_torch(model, state)
  )


@pytest.mark.parametrize("state", [None, [("conv1.weight", 1)], CNN()])
def test_from_torch_refuses_what_is_no_state(state):
  with pytest.raises(TypeError, match="state_dict: expected names and values, or a"):
    from_torch(CNN(), state)


def test_from_torch_infers_the_size_of_the_images():
  model = CNN(width=1, num_blocks=2, padding="SAME", num_classes=3)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 12, 12, 1)))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda v: rng.normal(size=v.shape).astype(np.float32), shapes
  )
  params, stats = variables["params"], variables["batch_stats"]
  state = {}
  for i in (1, 2):
    state |= {
      f"conv{i}.weight": params[f"conv_{i}"]["kernel"].transpose(3, 2, 0, 1),
      f"conv{i}.bias": params[f"conv_{i}"]["bias"],
      f"conv{i}_bn.weight": params[f"norm_{i}"]["scale"],
      f"conv{i}_bn.bias": params[f"norm_{i}"]["bias"],
      f"conv{i}_bn.running_mean": stats[f"norm_{i}"]["mean"],
      f"conv{i}_bn.running_var": stats[f"norm_{i}"]["var"],
    }
  hidden = params["hidden"]["kernel"].reshape(3, 3, 2, 8).transpose(3, 2, 0, 1)
  state |= {
    "fc1.weight": hidden.reshape(8, 18),
    "fc1.bias": params["hidden"]["bias"],
    "fc2.weight": params["classifier"]["kernel"].T,
    "fc2.bias": params["classifier"]["bias"],
  }
  jax.tree.map(np.testing.assert_array_equal, from_torch(model, state), variables)


def test_from_torch_lists_wrong_keys():
  _, state = load("torch_cnn.npz")
  del state["conv2.bias"]
  state["extra"] = np.zeros(3)
  with pytest.raises(
    ValueError, match=r"missing: conv2\.bias; unexpected: extra; check"
  ):
    from_torch(NETWORKS["torch_cnn.npz"], state)


def test_from_torch_lists_wrong_shapes():
  _, state = load("torch_cnn.npz")
  state["conv2.bias"] = np.zeros(3)
  state["fc1.weight"] = np.zeros((32, 65))
  with pytest.raises(
    ValueError,
    match=r"conv2\.bias: expected \(8,\), got \(3,\); "
    r"fc1\.weight: expected \(32, 64\), got \(32, 65\)",
  ):
    from_torch(NETWORKS["torch_cnn.npz"], state)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_from_torch_rejects_weights_that_are_not_finite(value):
  _, state = load("torch_cnn.npz")
  state["conv2.bias"] = state["conv2.bias"].astype(np.float64)
  state["conv2.bias"][3] = value
  with pytest.raises(
    ValueError, match=r"state_dict: expected finite .* in conv2\.bias;"
  ):
    from_torch(NETWORKS["torch_cnn.npz"], state)


def test_from_torch_rejects_another_width():
  _, state = load("torch_cnn.npz")
  with pytest.raises(ValueError, match=r"conv1\.weight: expected \(8, 3, 3, 3\)"):
    from_torch(CNN(width=8), state)
  with pytest.raises(ValueError, match=r"fc2\.bias: expected \(5,\), got \(10,\)"):
    from_torch(CNN(width=4, num_classes=5), state)
  state["conv1.weight"] = np.zeros(3)
  with pytest.raises(ValueError, match=r"conv1\.weight: expected .*, got \(3,\)"):
    from_torch(CNN(width=4), state)


def test_from_torch_rejects_other_models():
  for model in ({}, models.VisionTransformer(), models.with_branches(TINY, 4)):
    name = type(model).__name__
    with pytest.raises(TypeError, match=rf"model: expected a CNN, .*, got {name}"):
      from_torch(model, {})
