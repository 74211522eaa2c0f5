r"""Flags of a job on several hosts, one process on each.

The same command is run on every host, with a work directory that all of them see:

    flowkd train information_flow ... --coordinator_address=auto
    flowkd train information_flow ... --coordinator_address=HOST:PORT \
        --num_processes=2 --process_id=0    # and 1 on the second host

They are no settings of the experiment: it may be resumed on other hosts.
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
  """Flags of a process among several."""

  coordinator_address: str | None = fields.setting(
    None,
    "HOST:PORT of the first process, where all processes meet; or auto, where the "
    "environment tells it (TPU pods, Slurm, Open MPI). Without this flag there is one "
    "process.",
  )
  num_processes: int | None = fields.setting(
    None,
    "Number of processes on all hosts; needed with --coordinator_address=HOST:PORT.",
  )
  process_id: int | None = fields.setting(
    None,
    "Number of this process, from 0; needed with --coordinator_address=HOST:PORT.",
  )


def _check_address(address: str) -> None:
  """Raises ValueError unless an address is HOST:PORT of a host that is known."""
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
  """Waits for the other processes, if there are to be any.

  Raises:
    ValueError: If a flag is missing or cannot be right, or the others do not come.
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
      f"--coordinator_address: the processes did not come together ({address}): {error}"
    ) from None
