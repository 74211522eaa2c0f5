"""Trains one network on the devices of all processes; run once in every process."""

import sys

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train

coordinator, num_processes, process_id, folder = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")  # for CPUs only
jax.distributed.initialize(coordinator, int(num_processes), int(process_id))

# Every process yields its share of each batch.
mean, std = data.normalization("digits")
batches = data.training_batches(
  data.load("digits", "train"),
  batch_size=200,
  seed=0,
  mean=mean,
  std=std,
  process_index=jax.process_index(),
  process_count=jax.process_count(),
)
model = models.by_name("digits_cnn:2", axis_name="batch")
method = methods.supervised(model, optax.adam(1e-3))

# The same state everywhere, rows spread over the devices of all hosts.
mesh = Mesh(np.array(jax.devices()), ("batch",))
by_rows, whole = PartitionSpec("batch"), PartitionSpec()
images = np.zeros((2, *batches.image_shape), np.float32)
state = jax.jit(method.init, out_shardings=NamedSharding(mesh, whole))(
  jax.random.key(0), images
)
resident, constants = jax.device_put(
  (dict(batches.resident), method.constants), NamedSharding(mesh, whole)
)


def update(state, resident, constants, batch):
  return method.update(state, batches.prepare(resident, batch), constants)


step = jax.jit(
  jax.shard_map(
    update,
    mesh=mesh,
    in_specs=(whole, whole, whole, by_rows),
    out_specs=whole,
    check_vma=False,
  ),
  donate_argnums=0,
)
for epoch in range(2):
  for rows in batches.epoch(epoch):
    batch = {
      name: jax.make_array_from_process_local_data(NamedSharding(mesh, by_rows), array)
      for name, array in rows.items()
    }
    state, metrics = step(state, resident, constants, batch)

loss = float(metrics["loss"])
print(f"process {process_id}: {jax.device_count()} devices, loss {loss:.6f}")
# Host copies: process 0 writes, and any number of devices can read.
train.save_network(folder, method.export(jax.device_get(state))["network"])
