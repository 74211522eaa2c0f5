"""Shapes of rows, found without computing anything."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from flowkd_jax import capture
from flowkd_jax.capture import _shapes

IMAGES = jax.ShapeDtypeStruct((4, 2, 3, 1), jnp.float32)


class Net(nn.Module):
  form: str = "right"

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(5, name="layer")(images.reshape(len(images), -1))
    self.sow("intermediates", "map", images)
    self.sow("intermediates", "turned", x.T)
    self.sow("intermediates", "total", x.sum())
    self.sow("intermediates", "chance", x[:, :4].T)
    logits = nn.Dense(3)(x)
    return {"right": logits, "turned": logits.T, "two": (logits, x)}[self.form]


def _row_shapes(form="right", taps=()):
  model = Net(form)
  variables = jax.eval_shape(
    lambda images: capture.init(model, jax.random.key(0), images), IMAGES
  )
  return _shapes.row_shapes(model, variables, IMAGES, taps=taps)


def test_row_shapes_leave_out_the_batch():
  assert _row_shapes() == {"logits": (3,)}
  assert _row_shapes(taps=("map", "layer")) == {
    "map": (2, 3, 1),
    "layer": (5,),
    "logits": (3,),
  }


@pytest.mark.parametrize(
  ("form", "taps", "match"),
  [
    ("right", ("turned",), r"tap turned of Net is not .* 4 images give shape \(5, 4\)"),
    ("right", ("total",), r"tap total of Net is not the batch.* shape \(\)"),
    ("right", ("chance",), r"4 images give shape \(4, 4\), 7 images \(4, 7\)"),
    ("turned", (), r"of the logits of Net .* \(3, 4\), 7 images \(3, 7\)"),
    ("right", ("layr",), "taps: Net has no layr.*did you mean layer"),
    ("two", (), "Net"),
  ],
)
def test_outputs_whose_first_axis_is_not_the_batch_are_refused(form, taps, match):
  with pytest.raises(ValueError, match=match):
    _row_shapes(form, taps)
