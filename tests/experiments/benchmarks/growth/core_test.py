"""Cases of the losses and the information."""

from experiments.benchmarks.growth import core


def test_layers_of_a_comparison_have_different_widths():
  widths = [tap.shape[1] for taps in core._layers(4) for tap in taps]
  assert len(set(widths)) == 8
