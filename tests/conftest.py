"""Eight virtual CPU devices and strict numerics for the whole suite.

`pytest --platform=gpu` runs on an accelerator what can run on one device, and
`pytest --devices=1` runs the same tests on a CPU.
"""

import gc
import importlib.metadata
import itertools
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["MPLBACKEND"] = "agg"
# Compiling takes most of the time here; what is compiled runs once.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
  " --xla_cpu_parallel_codegen_split_count=1"
  # The older emitters compile twice as fast; later versions refuse the flag.
  + " --xla_cpu_use_fusion_emitters=false"
  * importlib.metadata.version("jaxlib").startswith("0.10.")
)
# What several tests compile is compiled once. One cache a process: entries are not
# written at once, so two processes would read each other's halves.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
# Storing a program costs a quarter of compiling it: small ones are compiled again.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

_MAPS = pathlib.Path("/proc/self/maps")  # of Linux alone
_TESTS = itertools.count()
# Seconds after which a process hangs; far above what it takes on a busy machine.
HANGS = 800

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes many objects that stay: looking for garbage took a tenth of the time.
gc.set_threshold(100_000, 20, 50)


def pytest_addoption(parser):
  parser.addoption(
    "--platform",
    choices=("cpu", "gpu", "tpu"),
    default="cpu",
    help="Devices to test on. On an accelerator one device is used.",
  )
  parser.addoption(
    "--devices", type=int, default=8, help="Number of virtual devices of the CPU."
  )


def pytest_configure(config):
  """Chooses the devices, here and in the processes that tests start."""
  platform, devices = config.getoption("platform"), config.getoption("devices")
  os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)
  jax.config.update("jax_num_cpu_devices", devices)
  if platform == "cpu":
    return
  # Left to JAX: a name such as cuda is passed over without a word if there is none.
  os.environ["JAX_PLATFORMS"] = ""
  jax.config.update("jax_platforms", None)
  # Tests start processes, and pytest-xdist has several: none may take all memory.
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
  os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
  if jax.default_backend() != platform:
    raise pytest.UsageError(
      f"--platform={platform}: expected a device that JAX can use, got "
      f"{jax.default_backend()} only; install JAX for it"
    )


def pytest_runtest_setup(item):
  """Skips what cannot hold on the chosen devices, and says why."""
  platform, devices = (
    item.config.getoption("platform"),
    item.config.getoption("devices"),
  )
  if item.get_closest_marker("eight_devices") and (platform, devices) != ("cpu", 8):
    pytest.skip("needs eight devices")
  only_cpu = item.get_closest_marker("cpu")
  if only_cpu and platform != "cpu":
    pytest.skip(f"is about the CPU: {only_cpu.args[0]}")


def pytest_unconfigure():
  shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"])


def pytest_collection_modifyitems(items):
  """Examples in docstrings compile what the tests of the losses compile too."""
  for item in items:
    if isinstance(item, pytest.DoctestItem):
      item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
  """No file keeps the programs of the one before.

  Every compiled program maps some pieces of memory, under JAX 0.12 more than before; at
  65,530 of them Linux refuses the next, and the compiler crashes.
  """
  yield
  jax.clear_caches()


@pytest.fixture(autouse=True)
def forget_many_programs():
  """A file of many tests stays below that number too, and below 3 GiB."""
  yield
  if next(_TESTS) % 20 == 0 and _MAPS.exists():
    with _MAPS.open("rb") as maps:
      if sum(1 for _ in maps) > 10_000:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def strict_dtypes(request):
  """No silent promotion between dtypes, except where optax needs it."""
  lenient = request.node.get_closest_marker("optimizer")
  with jax.numpy_dtype_promotion("standard" if lenient else "strict"):
    yield


@pytest.fixture
def run_in_processes():
  """Function that runs Python in processes which meet at an address.

  `(arguments_of, processes, devices)` returns the output of each process. The arguments
  of a process are `arguments_of(address, number)`. It has `devices` CPU devices.
  """
  return _run_in_processes


@pytest.fixture
def free_address():
  """Returns an address at which processes can meet: `() -> "localhost:PORT"`."""
  return _free_address


def _free_address():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def _run_in_processes(arguments_of, processes, devices):
  root = pathlib.Path(__file__).parents[1]
  address = _free_address()
  environment = {**os.environ, "PYTHONPATH": str(root)}
  running = [
    subprocess.Popen(
      [sys.executable, *arguments_of(address, number)],
      cwd=root,
      env=environment | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(processes)
  ]
  said = [process.communicate(timeout=HANGS) for process in running]
  assert [process.returncode for process in running] == [0] * processes, said
  return [out for out, _ in said]


@pytest.fixture
def key():
  return jax.random.key(0)


@pytest.fixture
def x64():
  """Float64 arithmetic for one test."""
  with jax.enable_x64(True):
    yield


def _degenerate_rows():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((8, 5)).astype(np.float32)
  antipodal = x.copy()
  antipodal[1] = -antipodal[0]
  duplicate = x.copy()
  duplicate[3:6] = duplicate[2]
  zero = x.copy()
  zero[4] = 0
  zeros = x.copy()
  zeros[4:6] = 0
  return {
    "zero row": zero,
    "two zero rows": zeros,
    "all zero": np.zeros_like(x),
    "duplicates": duplicate,
    "all alike": np.ones_like(x),
    "antipodal": antipodal,
    "antipodal, long": 900 * antipodal,
    "tiny": 1e-4 * x,
    "huge": 1e4 * x,
    "common mean": x + 1000,
    "one row": x[:1],
    "mixed norms": x * np.logspace(-8, 8, 8, dtype=np.float32)[:, None],
  }


@pytest.fixture
def degenerate_rows():
  """Feature matrices at which careless losses are not finite, by name."""
  return {name: jnp.asarray(rows) for name, rows in _degenerate_rows().items()}
