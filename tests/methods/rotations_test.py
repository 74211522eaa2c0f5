"""Images in four rotations, and the losses on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax.methods import _method
from flowkd_jax.methods import _rotations
from flowkd_jax.methods._distillation import Outputs


def _batch():
  rng = np.random.default_rng(0)
  return {
    "image": jnp.asarray(rng.standard_normal((3, 4, 4, 1)), jnp.float32),
    "label": jnp.array([2, 0, 1], jnp.int32),
    "mask": jnp.array([True, True, False]),
  }


def _logits(classes, seed):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal((12, classes)), jnp.float32)


def _rotated(batch):
  """Images and joint labels, one by one."""
  images, labels = [], []
  for image, label in zip(np.asarray(batch["image"]), batch["label"], strict=True):
    for turns in range(4):
      images.append(np.rot90(image, turns))
      labels.append(4 * int(label) + turns)
  return np.stack(images), np.array(labels)


@pytest.mark.slow
def test_rotations_are_interleaved_with_joint_labels():
  batch = _batch()
  rotated = _rotations.rotated_batch(batch)
  images, labels = _rotated(batch)
  np.testing.assert_array_equal(rotated["image"], images)
  np.testing.assert_array_equal(rotated["label"], labels)
  np.testing.assert_array_equal(rotated["image"][::4], batch["image"])
  np.testing.assert_array_equal(rotated["mask"], np.repeat(batch["mask"], 4))
  assert rotated["label"].dtype == batch["label"].dtype


def test_images_that_are_not_square_are_refused():
  images = jnp.zeros((2, 8, 6, 1))
  batch = {"image": images, "label": jnp.zeros(2, jnp.int32)}
  match = r"images: expected square .* \(2, 8, 6, 1\)"
  with pytest.raises(ValueError, match=match):
    _rotations.rotated_batch(batch)
  method = _rotations.on_rotations(_method.Method(None, None, None))
  with pytest.raises(ValueError, match=match):
    method.init(jax.random.key(0), images)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_joint_labels_neither_overflow_nor_label_what_has_none(dtype):
  labels = np.array([100, -1, -128, 0]).astype(dtype)
  batch = {
    "image": jnp.zeros((4, 2, 2, 1)),
    "label": jnp.asarray(labels),
    "mask": jnp.ones(4, bool),
  }
  joint = np.asarray(_rotations.rotated_batch(batch)["label"]).reshape(4, 4)
  assert joint.dtype == np.int32
  for row, label in zip(joint, labels.tolist(), strict=True):
    assert (row < 0).all() if label < 0 else (row == 4 * label + np.arange(4)).all()


def _log_softmax(x):
  x = np.asarray(x, np.float64)
  return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.slow
def test_cross_entropies_are_of_upright_images_and_of_all_rotations():
  rotated = _rotations.rotated_batch(_batch())
  branches = {"branch_1": _logits(12, 1), "branch_2": _logits(12, 2)}
  outputs = Outputs(_logits(3, 0), branches)
  terms = jax.jit(lambda *x: _rotations.cross_entropies(*x, None))(outputs, rotated)
  upright = _log_softmax(outputs.logits)
  np.testing.assert_allclose(
    terms["labels"], -(upright[0, 2] + upright[4, 0]) / 2, rtol=1e-5
  )
  joint = [*range(8, 12), *range(4)]
  expected = [-_log_softmax(x)[range(8), joint].mean() for x in branches.values()]
  np.testing.assert_allclose(terms["joint_labels"], sum(expected), rtol=1e-5)


@pytest.mark.slow
def test_divergences_are_sums_over_the_branches_of_the_student():
  batch = _rotations.rotated_batch(_batch())
  student = Outputs(_logits(3, 0), {"branch_1": _logits(12, 1)})
  # Branches that the student lacks are left out.
  teacher = Outputs(
    _logits(3, 3), {"branch_0": _logits(5, 5), "branch_1": _logits(12, 4)}
  )
  options = {"temperature": 2.0, "axis_name": None}
  values = _rotations.divergences(student, teacher, batch, **options)
  pairs = {
    "logits": (student.logits, teacher.logits),
    "branches": (student.taps["branch_1"], teacher.taps["branch_1"]),
  }
  assert set(values) == set(pairs)
  for name, sides in pairs.items():
    log_p, log_q = (_log_softmax(x / 2)[:8] for x in sides)
    expected = 4 * (np.exp(log_q) * (log_q - log_p)).sum(1).mean()
    np.testing.assert_allclose(values[name], expected, rtol=1e-5)
  without = student._replace(taps={})
  assert set(_rotations.divergences(without, teacher, batch, **options)) == {"logits"}


def test_on_rotations_hands_over_rotated_batches_and_no_teacher():
  method = _method.Method(
    init=lambda key, images: images.shape,
    update=lambda state, batch, constants: (state, batch),
    export=dict,
    observe=lambda state, batch, constants: {"rows": len(batch["label"])},
    teacher=object(),
  )
  rotated = _rotations.on_rotations(method)
  assert rotated.teacher is None
  assert rotated.init(jax.random.key(0), _batch()["image"]) == (3, 4, 4, 1)
  assert rotated.update(None, _batch(), ())[1]["image"].shape == (12, 4, 4, 1)
  assert rotated.observe(None, _batch(), ()) == {"rows": 12}
  silent = _rotations.on_rotations(method._replace(observe=None))
  assert silent.observe(None, _batch(), ()) == {}
