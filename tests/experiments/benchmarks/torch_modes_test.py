"""Ways to run PyTorch."""

import pytest

from experiments.benchmarks import measurement

torch = pytest.importorskip("torch")
torch_modes = pytest.importorskip("experiments.benchmarks.torch_modes")


def test_cuda_graph_needs_cuda():
  cpu, gpu = torch.device("cpu"), torch.device("cuda")
  assert torch_modes.modes(cpu) == ["eager", "compiled", "reduce-overhead"]
  assert torch_modes.modes(gpu) == [*measurement.MODES]
  assert torch_modes.modes(gpu, ("CUDA graph", "eager")) == ["CUDA graph", "eager"]
  with pytest.raises(ValueError, match="--torch_modes: expected a way that cpu has"):
    torch_modes.modes(cpu, ("CUDA graph",))


def test_device_that_pytorch_cannot_use_is_refused():
  assert torch_modes.device_for("cpu").type == "cpu"
  with pytest.raises(ValueError, match="expected a device that PyTorch can use too"):
    torch_modes.device_for("tpu")


@pytest.mark.slow
@pytest.mark.optimizer
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch itself
def test_compiled_programs_compute_the_same():
  rows = torch.arange(6.0).reshape(2, 3)
  function = lambda x: (torch.sin(x) ** 2).sum()
  expected = function(rows)
  for mode in torch_modes.modes(torch.device("cpu")):
    torch.testing.assert_close(torch_modes.compiled(function, mode)(rows), expected)


def test_programs_run_their_step_and_return_nothing():
  calls = []
  program = torch_modes.program(
    lambda: calls.append(1), measurement.EAGER, torch.device("cpu")
  )
  assert program() is None
  assert calls == [1]
