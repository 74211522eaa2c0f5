"""The linear layer of a teacher, by its name, by its path or given."""

import numpy as np
import pytest

from flowkd_jax.methods import _reused_classifier

KERNEL, BIAS = np.ones((4, 3), np.float32), np.arange(3, dtype=np.float32)
PARAMS = {
  "stem": {"conv": {"kernel": np.ones((3, 3, 1, 4), np.float32)}},
  "body": {"classifier": {"kernel": KERNEL, "bias": BIAS}},
}


@pytest.mark.parametrize("classifier", [None, "body/classifier", (KERNEL, BIAS)])
def test_layer_is_found_or_given(classifier):
  layer = _reused_classifier.found_classifier(PARAMS, classifier)
  np.testing.assert_array_equal(layer["kernel"], KERNEL)
  np.testing.assert_array_equal(layer["bias"], BIAS)


def test_layer_without_a_bias_adds_nothing():
  params = {"head": {"kernel": KERNEL}}
  layer = _reused_classifier.found_classifier(params, "head")
  np.testing.assert_array_equal(layer["bias"], np.zeros(3))


@pytest.mark.parametrize(
  ("params", "classifier", "message"),
  [
    (PARAMS, "head", "expected \"head\" among .*'body/classifier', 'stem/conv'"),
    (PARAMS, "stem/conv", r"expected a kernel \[channels, classes\], got shape"),
    (PARAMS, (KERNEL,), "expected a kernel and a bias, got 1"),
    (PARAMS, (KERNEL, BIAS[:2]), r"classifier bias: expected shape \(3,\), got \(2,\)"),
    ({"x": BIAS}, None, 'one layer called "classifier" .* got none'),
    (PARAMS | PARAMS["body"], None, 'one layer called "classifier" .* got'),
  ],
)
def test_other_layers_are_refused(params, classifier, message):
  with pytest.raises(ValueError, match=message):
    _reused_classifier.found_classifier(params, classifier)
