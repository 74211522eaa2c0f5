r"""Flags of a job on several hosts, with one process per host.

Run the same command on every host, with a work directory that all hosts share:

    flowkd train information_flow ... --coordinator_address=auto
    flowkd train information_flow ... --coordinator_address=HOST:PORT \
        --num_processes=2 --process_id=0    # and 1 on the second host

These flags are not settings of the experiment: it can be resumed on other hosts.
"""

import dataclasses
import socket

import jax
from absl import flags

from flowkd_jax.jobs import fields

__all__ = [
  "AUTO",
  "Config",
  "connect",
]

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Config:
  """Flags that connect the processes of a job."""

  coordinator_address: str | None = fields.setting(
    None,
    "HOST:PORT of the first process, to which all processes connect; or auto, if the "
    "environment provides it (TPU pods, Slurm, Open MPI). Without the flag: one "
    "process.",
  )
  num_processes: int | None = fields.setting(
    None,
    "Number of processes on all hosts; required with --coordinator_address=HOST:PORT.",
  )
  process_id: int | None = fields.setting(
    None,
    "Number of this process, from 0; required with --coordinator_address=HOST:PORT.",
  )


def _check_address(address: str) -> None:
  """Raise ValueError unless an address is HOST:PORT of a known host."""
  host, _, port = address.rpartition(":")
  if not host or not (port.isdecimal() and 0 < int(port) < 2**16):
    raise ValueError(
      f"--coordinator_address: expected {AUTO}, or HOST:PORT with a port up to 65535, "
      f"got {address!r}"
    )
  try:
    socket.getaddrinfo(host.strip("[]"), int(port))
  except (OSError, UnicodeError) as error:
    raise ValueError(
      f"--coordinator_address: no host is known by the name in {address!r} ({error})"
    ) from None


def connect(values: flags.FlagValues) -> None:
  """Connect to the other processes, if the flags ask for several.

  Raises:
    ValueError: If a flag is missing or wrong, or other processes do not connect.
  """
  address, count, number = (
    values.coordinator_address,
    values.num_processes,
    values.process_id,
  )
  if address is None:
    for name, value in (("num_processes", count), ("process_id", number)):
      if value is not None:
        raise ValueError(f"--{name}: expected with --coordinator_address, got it alone")
    return
  if address != AUTO:
    if count is None or number is None:
      raise ValueError(
        "--coordinator_address: expected --num_processes and --process_id with an "
        f"address, got {address} without; or {AUTO}"
      )
    if count < 1:
      raise ValueError(f"--num_processes: expected 1 or more, got {count}")
    if not 0 <= number < count:
      raise ValueError(
        f"--process_id: expected 0 to --num_processes - 1, which is {count - 1}, got "
        f"{number}"
      )
    _check_address(address)
  if address == AUTO and (count is None) != (number is None):
    raise ValueError(
      "--num_processes, --process_id: expected both or none with "
      f"--coordinator_address={AUTO}"
    )
  given = {} if address == AUTO else {"coordinator_address": address}
  try:
    jax.distributed.initialize(**given, num_processes=count, process_id=number)
  except (RuntimeError, ValueError) as error:
    raise ValueError(
      f"--coordinator_address: the processes could not connect ({address}): {error}"
    ) from None
