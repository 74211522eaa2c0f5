"""The study of CIFAR-100 pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.studies import cifar100_pairs
from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax.jobs import loss_terms

pytestmark = pytest.mark.optimizer


def _runs(pair):
  return {run.name: run for run in cifar100_pairs.pair_runs(pair)}


def _flag(run, name):
  (value,) = [f.partition("=")[2] for f in run.flags if f.startswith(f"--{name}=")]
  return value


def test_every_pair_has_every_row_and_its_teacher():
  study = cifar100_pairs.STUDY
  assert len(study.grid.columns) == 13
  names = {run.name for run in study.runs}
  assert len(names) == len(study.runs)
  for pair in study.grid.columns:
    assert study.grid.teachers[pair] in names
    assert {f"{pair}_labels", f"{pair}_kd", f"{pair}_recipe"} <= names
  assert {pair for family in study.grid.families for pair in family} == {
    *study.grid.columns
  }


def test_the_training_is_that_of_the_benchmark():
  run = _runs("r32x4_r8x4")["r32x4_r8x4_dkd"]
  assert _flag(run, "student_epochs") == "150@0.05,30@0.005,30@0.0005,30@5e-05"
  assert _flag(run, "losses") == "dkd(beta=8):warmup(1,20)"
  assert _flag(run, "networks_from") == "{workdir}/teacher_r32x4/0"
  slow = _runs("vgg13_mbv2")["vgg13_mbv2_kd"]
  assert _flag(slow, "student_epochs").startswith("150@0.01,30@0.001")
  assert _flag(slow, "label_weight") == "0.1"
  standardized = _runs("r56_r20")["r56_r20_dkd_standardized"]
  expected = "dkd(standardize=true,temperature=3,alpha=18,beta=36):warmup(1,20)"
  assert _flag(standardized, "losses") == expected


@pytest.mark.parametrize("pair", cifar100_pairs.PAIRS)
def test_losses_of_every_pair_can_be_read(pair):
  for run in _runs(pair).values():
    if run.result == "student":
      assert loss_terms.of_flag("--losses", _flag(run, "losses"))


@pytest.fixture(scope="module")
def small_pair():
  """Student and teacher, narrow but with all taps of the benchmark, and a batch."""
  images = np.random.default_rng(0).standard_normal((8, 8, 8, 3))
  images = jnp.asarray(images, jnp.float32)
  networks = []
  for seed in (0, 1):  # of equal width, as KDSVD needs it
    model = models.by_name("resnet8x4:2", num_classes=4)
    make = jax.jit(
      lambda x, model=model, seed=seed: capture.init(model, jax.random.key(seed), x)
    )
    networks.append(methods.Network(model, make(images)))
  batch = {
    "image": images,
    "label": jnp.arange(8, dtype=jnp.int32) % 4,
    "mask": jnp.arange(8) < 6,
    "index": jnp.arange(8),
  }
  return *networks, batch


_TAUGHT = [
  run for run in cifar100_pairs.pair_runs("r56_r20") if run.result == "student"
]
_PARTS = 8  # of the rows, as the program of all compiles too long


@pytest.mark.slow
@pytest.mark.parametrize("part", range(_PARTS))
def test_every_row_takes_a_step_and_stays_finite(part, small_pair):
  student, teacher, batch = small_pair
  rows = _TAUGHT[part::_PARTS]
  text = ",".join(_flag(run, "losses") for run in rows)
  method = methods.combined_losses(
    student.model,
    teacher,
    optax.sgd(1e-4, 0.9),
    losses=loss_terms.terms(loss_terms.of_flag("--losses", text), 10),
    image_shape=(8, 8, 3),
    num_examples=20,
    initial=student.variables,
    axis_name=None,
  )
  state = jax.jit(method.init)(jax.random.key(0), batch["image"])
  after, metrics = jax.jit(method.update)(state, batch, method.constants)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  for name, value in metrics.items():
    assert jnp.isfinite(value), name
  before, now = state.params["student"], after.params["student"]
  moved = jax.tree.map(lambda old, new: bool((old != new).any()), before, now)
  assert any(jax.tree.leaves(moved))
