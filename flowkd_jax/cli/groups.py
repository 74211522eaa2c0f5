"""Groups of flags, in the order of the help text.

Every setting of every job belongs to one group. Within a group, the most used flags
come first. The flags of other commands and scripts are shown as one group.
"""

import dataclasses
from collections.abc import Iterable

__all__ = [
  "GROUPS",
  "grouped",
]

GROUPS = {
  "Required and common": (
    *("workdir", "dataset", "data_dir", "stages", "recipe", "seed"),
  ),
  "Data": (
    *("train_split", "test_split", "validation_split", "image_size", "image_key"),
    *("label_key", "flip", "crop_padding", "min_crop_area", "color_jitter"),
    *("grayscale", "held_out", "rotations", "domain_images"),
    *("clients", "alpha", "client_minimum", "memory_gib"),
  ),
  "Networks": (
    *("network", "teacher_network", "auxiliary_network", "student_network"),
    *("num_students", "networks_from", "auxiliary_checkpoint"),
    *("teacher_checkpoint", "mixed_precision", "teacher_mixed_precision"),
  ),
  "Training": (
    *(
      "batch_size",
      "micro_batches",
      "epochs",
      "rounds",
      "teacher_epochs",
      "branch_epochs",
    ),
    *("auxiliary_labels_epochs", "auxiliary_epochs", "student_labels_epochs"),
    *("student_epochs", "clients_per_round", "local_steps"),
    *("fedavg_learning_rate", "fedprox_learning_rate", "fedgen_learning_rate"),
    *("fedgen_kl_learning_rate", "fedgen_untrained_learning_rate", "round_decay"),
    *("learning_rate_decay", "optimizer", "adam_beta2", "momentum", "nesterov"),
    *("weight_decay", "warmup_epochs", "label_smoothing", "reset_optimizer"),
    *("average", "steps_per_call", "parallelism"),
  ),
  "Method": (
    *("losses", "losses_file"),
    *("learn_from", "teacher", "layer_map", "matching", "kernels", "last_tap_kernels"),
    *("divergence", "last_tap_from", "teacher_pooling", "authors"),
    *("flow_weight_init", "flow_weight_gamma", "schedule_by_step"),
    *("normalize_flow_weights", "weight", "label_weight", "feature_weight"),
    *("ensemble_weight", "temperature", "kd_weight", "kd_temperature", "confidence"),
    *("smallest", "matched_filter", "proximal_weight", "latent_weight"),
    *("latent_decay", "generator_steps", "generator_learning_rate"),
  ),
  "Measuring": (
    *("measure", "measure_every", "flow_examples", "diagnostics"),
    *("target_accuracy", "averaged_rounds"),
  ),
  "Where to write": (
    *("checkpoint_seconds", "teacher_cache", "teacher_cache_dtype"),
    *("teacher_cache_gib", "compilation_cache"),
  ),
  "Several hosts": ("coordinator_address", "num_processes", "process_id"),
}


def grouped(fields: Iterable[dataclasses.Field]) -> dict[str, list[dataclasses.Field]]:
  """Group fields by title, in the order of the help text.

  Fields without a group form the last group. Its title is "Flags" if it is the only
  group and "Further flags" otherwise.

  Args:
    fields: The fields of a configuration.
  """
  left = {field.name: field for field in fields}
  found = {
    title: [left.pop(name) for name in names if name in left]
    for title, names in GROUPS.items()
  }
  shown = {title: members for title, members in found.items() if members}
  if left:
    shown["Further flags" if shown else "Flags"] = [*left.values()]
  return shown
