"""Layer map: the teacher tap of each student tap, given by a flag, a file or a search.

Values of `--layer_map`:

* empty: taps with equal names; if names differ, one to one in the declared order
* `auto`: most similar taps by linear CKA, in order
* `auto_debiased`: most similar taps by debiased linear CKA, which does not prefer wide
  taps if examples are few
* `kappa`: taps with the nearest information flow, as in the paper
* pairs `a:b,c:d`
* a file `layer_map.json` of an earlier run
"""

import os
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from flowkd_jax import _files
from flowkd_jax import evaluation
from flowkd_jax import flow
from flowkd_jax import report
from flowkd_jax import train
from flowkd_jax.jobs import stages

__all__ = [
  "FILE",
  "FOUND",
  "LayerMap",
  "found_layers",
  "given_layers",
]

LayerMap = dict[str, str]
_AUTO_DEBIASED = "auto_debiased"
FOUND = ("auto", _AUTO_DEBIASED, "kappa")
FILE = "layer_map.json"


def given_layers(
  text: str, student_taps: Sequence[str], teacher_taps: Sequence[str]
) -> LayerMap:
  """Layer map that the flag, or the file that it names, gives.

  Raises:
    ValueError: If the map names an unknown tap, or taps cannot be paired.
  """
  if not text:
    return _same_or_one_to_one(student_taps, teacher_taps)
  if os.path.isfile(text):  # False for a text that is too long for a path
    pairs = _read(text)
  elif ":" in text:
    pairs = _written_pairs(text)
  else:
    raise ValueError(
      f"--layer_map: expected {', '.join(FOUND)}, pairs such as "
      f"{student_taps[-1]}:{teacher_taps[-1]}, or a file that exists; got {text!r}"
    )
  for taps, names in ((student_taps, pairs.keys()), (teacher_taps, pairs.values())):
    missing = [name for name in names if name not in taps]
    if missing:
      raise ValueError(
        f"--layer_map: no tap {', '.join(missing)}; there are {', '.join(taps)}"
      )
  return {tap: pairs[tap] for tap in student_taps if tap in pairs}


def _read(path: str) -> LayerMap:
  """Read the layer map of an earlier run."""
  remedy = "restore a copy, or delete it to have the layers compared again"
  try:
    found = _files.read_json(path, remedy)
  except ValueError as error:
    raise ValueError(f"--layer_map: {error}") from None
  pairs = found.get("layer_map") if isinstance(found, dict) else None
  pairs = pairs if isinstance(pairs, dict) else {}
  if not pairs or not all(isinstance(tap, str) for tap in pairs.values()):
    raise ValueError(
      f"--layer_map: expected a {FILE} of an earlier run, with an entry layer_map that "
      f"maps tap names to tap names, got {path}, which has none"
    )
  return pairs


def _same_or_one_to_one(
  student_taps: Sequence[str], teacher_taps: Sequence[str]
) -> LayerMap:
  """Pair taps with equal names, or one to one in order if no name is shared."""
  if set(student_taps) <= set(teacher_taps):
    return {tap: tap for tap in student_taps}
  pairs = dict(zip(student_taps, teacher_taps, strict=False))
  crossed = [tap for tap in pairs if pairs[tap] != tap and tap in teacher_taps]
  if len(student_taps) != len(teacher_taps) or crossed:
    raise ValueError(
      f"--layer_map: the student has the taps {', '.join(student_taps)}, its teacher "
      f"{', '.join(teacher_taps)}; expected equal names or equally many taps, or a "
      f"map: {', '.join(FOUND)}, or pairs such as "
      f"{student_taps[-1]}:{teacher_taps[-1]}"
    )
  return pairs


def _written_pairs(text: str) -> LayerMap:
  """Parse pairs such as `a:b,c:d`."""
  parts = [tuple(part.split(":", 1)) for part in text.split(",")]
  pairs = dict(part for part in parts if len(part) == 2 and all(part))
  if len(pairs) != len(parts):
    raise ValueError(
      "--layer_map: expected pairs student_tap:teacher_tap, separated by commas, each "
      f"student tap once, got {text!r}"
    )
  return pairs


def found_layers(
  how: str,
  student: train.Features,
  teacher: train.Features,
  *,
  num_classes: int,
  folder: Path | None,
) -> LayerMap:
  """Find a layer map by comparing activations of both networks; save and plot it.

  Args:
    how: Search, one of `FOUND`.
    student: Taps of the student, on some examples.
    teacher: Taps of the teacher, on the same examples.
    num_classes: Number of classes.
    folder: Folder for `layer_map.json` and `layer_map.png`. None writes nothing.
  """
  # The order of the taps is the network's: JAX would sort the keys of a dictionary
  # that passes through a compiled function.
  taps = [*student.taps.items()], [*teacher.taps.items()]
  names = [*student.taps], [*teacher.taps]
  debiased = how == _AUTO_DEBIASED
  cka = evaluation.cka_matrix(*taps, debiased=debiased)
  distance = evaluation.flow_distance_matrix(
    *taps, labels=student.labels, num_classes=num_classes
  )
  if how != "kappa":
    chosen = flow.monotone_layers(cka)
  else:
    chosen = flow.nearest_of_distances(jnp.asarray(distance)).tolist()
  layer_map = {tap: names[1][j] for tap, j in zip(names[0], chosen, strict=True)}
  if folder is None:
    return layer_map
  stages.write_json(
    folder / FILE,
    {
      "how": how,
      "layer_map": layer_map,
      "student_taps": names[0],
      "teacher_taps": names[1],
      "cka": cka.tolist(),
      "flow_distance": distance.tolist(),
    },
  )
  title = "debiased linear CKA" if debiased else "linear CKA"
  matrices = {title: cka, "distance of information flow": distance}
  if train.is_first_process():
    figure = report.layer_picture(matrices, *names, layer_map)
    report.save_figure(figure, folder / "layer_map.png")
  return layer_map
