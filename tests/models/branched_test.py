"""A residual network with a branch after every stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from tests.models.tiny import TINY
from tests.models.tiny import images_of
from tests.models.tiny import sown_shapes
from tests.models.tiny import variables_of


@pytest.mark.slow
def test_branches_are_copies_of_the_remaining_stages():
  backbone = models.cifar_resnet(14, width=2)
  branched = models.with_branches(backbone, 40)
  images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
  shapes = jax.eval_shape(branched.init, jax.random.key(0), images)["params"]
  own = shapes["body"]
  for branch, copied in (("branch_1_body", (2, 3)), ("branch_2_body", (3,))):
    assert set(shapes[branch]) == {"classifier"} | {
      f"stage_{i}_block_{j}" for i in range(1, len(copied) + 1) for j in (1, 2)
    }
    for i, stage in enumerate(copied, start=1):
      for j in (1, 2):
        copy = shapes[branch][f"stage_{i}_block_{j}"]
        assert copy == own[f"stage_{stage}_block_{j}"]
  # One more stage, of the last width.
  extra = shapes["branch_3_body"]["stage_1_block_1"]
  assert extra == own["stage_3_block_2"]
  for branch in ("branch_1_body", "branch_2_body", "branch_3_body"):
    assert shapes[branch]["classifier"]["kernel"].shape == (8, 40)
  assert sown_shapes(branched, images, branched.branches) == dict.fromkeys(
    ("branch_1", "branch_2", "branch_3"), (4, 40)
  )


@pytest.mark.slow
def test_branches_leave_the_backbone_as_it_is():
  branched, images = models.with_branches(TINY, 12), images_of()
  assert models.backbone(branched) == TINY
  variables = variables_of(branched, images)
  logits, taps = capture.apply_with_taps(branched, variables, images)
  expected, expected_taps = capture.apply_with_taps(
    TINY, models.backbone_variables(variables), images
  )
  np.testing.assert_array_equal(logits, expected)
  jax.tree.map(np.testing.assert_array_equal, taps, expected_taps)


@pytest.mark.slow
def test_backbone_starts_from_the_same_weights_with_branches_and_without():
  images = images_of()
  alone = capture.init(TINY, jax.random.key(3), images)
  branched = capture.init(models.with_branches(TINY, 12), jax.random.key(3), images)
  jax.tree.map(
    np.testing.assert_array_equal, models.backbone_variables(branched), alone
  )


@pytest.mark.slow
def test_frozen_backbone_stays_in_evaluation_mode():
  branched = models.with_branches(TINY, 12, frozen_backbone=True)
  images = images_of()
  variables = variables_of(branched, images)
  logits, updated = branched.apply(
    variables, images, train=True, mutable=["batch_stats"]
  )
  np.testing.assert_allclose(logits, branched.apply(variables, images), rtol=1e-6)
  before, after = variables["batch_stats"], updated["batch_stats"]
  for part in before:
    same = jax.tree.map(
      lambda a, b: bool((np.asarray(a) == b).all()), before[part], after[part]
    )
    assert all(jax.tree.leaves(same)) == (part in ("stem", "body"))


def test_branches_on_branches_are_refused():
  branched = models.with_branches(TINY, 12)
  with pytest.raises(TypeError, match="without branches.*got BranchedResNet"):
    models.with_branches(branched, 12)
