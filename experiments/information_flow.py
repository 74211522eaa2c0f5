"""Information-flow distillation: teacher, auxiliary teacher, student.

Passalis, Tzelepi, Tefas, "Heterogeneous Knowledge Distillation using Information Flow
Modeling", CVPR 2020, https://arxiv.org/abs/2005.00727. Five stages:

  teacher           a large network, on labels
  student_labels    the student on labels only, for comparison
  auxiliary_labels  the auxiliary teacher, shaped like the student but wider, on labels
  auxiliary         the same network goes on: its last tap learns from the teacher's
  student           from scratch, without labels: all taps learn from the auxiliary's,
                    intermediate ones by the critical-period schedule

    python -m experiments.information_flow --dataset=digits --workdir=runs/digits
    python -m experiments.information_flow --dataset=cifar10 --data_dir=D --workdir=W

Run the same command again after any interruption and it goes on where it was. The work
directory holds config.json, metrics.jsonl, tensorboard/, results.json, results.md,
pictures/, and for each stage its network.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import launch
from experiments import stages
from flowkd_jax import data
from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import report
from flowkd_jax import schedules
from flowkd_jax import train

STAGES = ("teacher", "student_labels", "auxiliary_labels", "auxiliary", "student")
_NETWORK_NAMES = f"one of {', '.join(models.NAMES)}"
# Settings that do not change what comes out: they may differ when a run is resumed.
RUN_ONLY = ("workdir", "data_dir", "stages", "checkpoint_seconds", "memory_gib")


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings; the defaults are the paper's. `configure` adapts them to a data set."""

  dataset: str = launch.setting(
    "digits",
    "digits (scikit-learn's, nothing to download) or any image classification set of "
    "tensorflow-datasets: cifar10, cifar100, mnist, stl10, caltech_birds2011, ...",
  )
  workdir: str = launch.setting(
    "", "Where everything is written; resumed if it exists."
  )
  data_dir: str | None = launch.setting(
    None, "Where tensorflow-datasets are prepared (default: its own default)."
  )
  stages: tuple[str, ...] = launch.setting(STAGES, "Stages to run.")
  seed: int = launch.setting(0, "Seed of weights, order and augmentation.")
  image_size: int | None = launch.setting(
    None, "Side to which images are resized and cropped (default: as they are)."
  )
  teacher_network: str = launch.setting("resnet18", f"NAME:WIDTH, {_NETWORK_NAMES}.")
  auxiliary_network: str = launch.setting("cnn1:16", "As above.")
  student_network: str = launch.setting("cnn1:8", "As above.")
  auxiliary_weights: str | None = launch.setting(
    None,
    "A .npz of PyTorch weights for the auxiliary, in place of the stages teacher, "
    "auxiliary_labels and auxiliary.",
  )
  batch_size: int = launch.setting(128, "Rows of a step, over all devices.")
  teacher_epochs: str = launch.setting(
    "50@1e-3,30@1e-4", "Epochs@learning rate of Adam, one phase after the other."
  )
  student_labels_epochs: str = launch.setting("50@1e-3", "As above.")
  auxiliary_labels_epochs: str = launch.setting("50@1e-3,30@1e-4", "As above.")
  auxiliary_epochs: str = launch.setting("30@1e-3,10@1e-4", "As above.")
  student_epochs: str = launch.setting("50@1e-3", "As above.")
  initial_weight: float = launch.setting(
    100.0, "Weight of the student's intermediate taps in the first epoch."
  )
  weight_decay_per_epoch: float = launch.setting(
    0.7, "Factor of that weight per epoch: the paper's gamma."
  )
  schedule_by_step: bool = launch.setting(
    False, "Let that weight decay with every step instead of every epoch."
  )
  matching: str = launch.setting(
    "probabilities",
    "What is matched: conditional probabilities, as the paper trains, or quadratic: "
    "the mutual information with the labels itself.",
  )
  kernels: tuple[str, ...] = launch.setting(
    ("cosine", "student_t"), f"Kernels, summed: {', '.join(kernels.KERNELS)}."
  )
  divergence: str = launch.setting(
    "jeffreys", f"Divergence: {', '.join(information.DIVERGENCES)}."
  )
  authors: bool = launch.setting(
    False, "The loss exactly as in the published code: diagonal, mean, epsilons."
  )
  label_weight: float = launch.setting(
    0.0, "Weight of a cross-entropy added to the student's loss."
  )
  reset_optimizer: bool = launch.setting(
    True, "Forget Adam's moments at every epoch of the student, as the authors' code."
  )
  flip: bool = launch.setting(True, "Random horizontal flips.")
  crop_padding: int = launch.setting(
    4, "Random crops after padding by so many pixels; 0 for none."
  )
  mixed_precision: bool = launch.setting(
    False, "Networks compute in bfloat16; losses stay in float32."
  )
  flow_examples: int = launch.setting(
    2000, "Training examples on which information flow is measured."
  )
  measure_every: int = launch.setting(
    1, "Epochs between measurements of information flow and test accuracy."
  )
  checkpoint_seconds: float = launch.setting(60.0, "Seconds between checkpoints.")
  memory_gib: float = launch.setting(
    4.0, "Data sets up to so many GiB are kept on the devices; larger ones stream."
  )


# What differs from the paper's settings, by data set.
PRESETS: dict[str, dict[str, Any]] = {
  "digits": {
    "teacher_network": "digits_resnet:32",
    "auxiliary_network": "digits_cnn:16",
    "student_network": "digits_cnn:4",
    "batch_size": 64,
    "teacher_epochs": "20@1e-3,10@1e-4",
    "student_labels_epochs": "40@1e-3",
    "auxiliary_labels_epochs": "20@1e-3",
    "auxiliary_epochs": "20@1e-3",
    "student_epochs": "40@1e-3",
    "flip": False,
    "crop_padding": 0,
  },
  "mnist": {"flip": False, "crop_padding": 2, "image_size": 32},
}


def configure(**given: Any) -> Config:
  """The paper's settings, adapted to the data set, and then those that are given.

  Raises:
    ValueError: If a setting cannot be right; names it, what was expected, what came.
  """
  dataset = given.get("dataset", Config.dataset)
  config = Config(**{**PRESETS.get(dataset, {}), **given})
  _check_choices(config)
  _check_numbers(config)
  return config


def _check_choices(config: Config) -> None:
  if not config.workdir:
    raise ValueError("--workdir: expected a folder to write to, got none")
  for stage in config.stages:
    _check_choice("--stages", stage, STAGES)
  _check_choice("--matching", config.matching, methods.MATCHINGS)
  if config.authors and config.matching == "quadratic":
    raise ValueError("--authors: the authors' code matches probabilities only")
  for kernel in config.kernels:
    _check_choice("--kernels", kernel, tuple(kernels.KERNELS))
  _check_choice("--divergence", config.divergence, tuple(information.DIVERGENCES))
  for role in ("teacher", "auxiliary", "student"):
    try:
      models.by_name(getattr(config, f"{role}_network"))
    except ValueError as error:
      raise ValueError(f"--{role}_network: {error}") from None


def _check_numbers(config: Config) -> None:
  for name in ("flow_examples", "measure_every", "batch_size"):
    if getattr(config, name) < 1:
      raise ValueError(f"--{name}: expected 1 or more, got {getattr(config, name)}")
  for name in ("seed", "crop_padding", "label_weight", "checkpoint_seconds"):
    if getattr(config, name) < 0:
      raise ValueError(f"--{name}: expected 0 or above, got {getattr(config, name)}")
  for stage in STAGES:
    phases(getattr(config, f"{stage}_epochs"), f"--{stage}_epochs")
  try:
    schedules.critical_period(config.initial_weight, config.weight_decay_per_epoch)
  except ValueError as error:
    message = str(error).replace("decay:", "weight_decay_per_epoch:", 1)
    raise ValueError(f"--{message}") from None


def phases(text: str, flag: str) -> list[tuple[int, float]]:
  """`"50@1e-3,30@1e-4"` as [(50, 0.001), (30, 0.0001)].

  Raises:
    ValueError: If the text is of another form.
  """
  try:
    pairs = [part.split("@") for part in text.split(",")]
    result = [(int(epochs), float(rate)) for epochs, rate in pairs]
    if any(epochs < 1 or not rate > 0 for epochs, rate in result):
      raise ValueError
  except ValueError:
    raise ValueError(
      f"{flag}: expected EPOCHS@LEARNING_RATE, separated by commas, such as "
      f"50@1e-3,30@1e-4; got {text!r}"
    ) from None
  return result


def run(config: Config) -> None:
  """Runs the experiment; everything it leaves is in `config.workdir`."""
  progress = train.Progress()
  workdir = Path(config.workdir).absolute()
  datasets = open_datasets(config, progress)
  remember(config, workdir / "config.json")
  devices = jax.local_devices()
  progress.say(
    f"{config.dataset}: {datasets.training.num_examples} training and "
    f"{datasets.queries.num_examples} test images on {len(devices)} "
    f"{devices[0].platform} device{'s' if len(devices) > 1 else ''}; work directory "
    f"{workdir}"
  )
  with train.stop_on_signals() as should_stop:
    runner = stages.StageRunner(
      workdir,
      datasets,
      seed=config.seed,
      measure_every=config.measure_every,
      checkpoint_seconds=config.checkpoint_seconds,
      progress=progress,
      should_stop=should_stop,
    )
    for stage in _Stages(config, runner).selected():
      runner.run(stage)
  conclude(workdir, progress)


def conclude(workdir: Path, progress: train.Progress) -> None:
  """Writes results and pictures of all finished stages and shows the table."""
  results = [
    json.loads((workdir / name / "result.json").read_text())
    for name in STAGES
    if (workdir / name / "result.json").exists()
  ]
  stages.write_json(workdir / "results.json", {"networks": results})
  (workdir / "results.md").write_text(report.network_markdown(results))
  pictures = report.save_pictures(workdir)
  progress.console.print(report.network_table(results))
  progress.say(f"Pictures: {', '.join(str(path) for path in pictures)}")


def open_datasets(config: Config, progress: train.Progress) -> stages.Datasets:
  """The batches of the experiment; refuses what cannot work before any decoding."""
  where: dict[str, Any] = {
    "data_dir": config.data_dir,
    "image_size": config.image_size,
  }
  training, test = (
    data.open_source(config.dataset, split, **where) for split in ("train", "test")
  )
  train.check_batch_size(config.batch_size, jax.local_device_count())
  if training.num_bytes + test.num_bytes <= config.memory_gib * 2**30:
    training, test = (
      data.load(
        config.dataset,
        split,
        **where,
        progress=progress.counter(f"decoding {config.dataset}/{split}"),
      )
      for split in ("train", "test")
    )
  mean, std = data.normalization(config.dataset, training)
  limit = min(config.flow_examples, training.num_examples)
  probe = data.load(config.dataset, "train", **where, limit=limit)

  def clean(source: data.Source) -> data.Batches:
    devices = jax.local_device_count()
    size = min(stages.EVALUATION_BATCH, source.num_examples) // devices * devices
    return data.evaluation_batches(source, batch_size=size, mean=mean, std=std)

  return stages.Datasets(
    training=data.training_batches(
      training,
      batch_size=config.batch_size,
      seed=config.seed,
      mean=mean,
      std=std,
      augmentation=data.Augmentation(flip=config.flip, padding=config.crop_padding),
    ),
    database=clean(training),
    queries=clean(test),
    probe=clean(probe),
  )


def remember(config: Config, path: Path) -> None:
  """Writes the resolved configuration, or checks that it is the one written before.

  Raises:
    ValueError: If the work directory belongs to a run with other settings.
  """
  now = json.loads(json.dumps(dataclasses.asdict(config)))
  if path.exists():
    before = json.loads(path.read_text())
    different = [
      f"--{name}: {before.get(name)} before, {now[name]} now"
      for name in now
      if name not in RUN_ONLY and before.get(name) != now[name]
    ]
    if different:
      raise ValueError(
        f"{path.parent} belongs to a run with other settings ({'; '.join(different)}). "
        "Use another --workdir, or the settings of before to go on with it"
      )
  stages.write_json(path, now)


class _Stages:
  """What each stage is, for one configuration."""

  def __init__(self, config: Config, runner: stages.StageRunner):
    self.config, self.runner = config, runner
    self.training = runner.datasets.training
    self.num_classes = self.training.num_classes

  def selected(self) -> list[stages.Stage]:
    imported = self.config.auxiliary_weights is not None
    skipped = ("teacher", "auxiliary_labels") if imported else ()
    chosen = [name for name in self.config.stages if name not in skipped]
    return [getattr(self, f"_{name}")() for name in chosen]

  def _teacher(self):
    return self._on_labels("teacher", "teacher on labels", "teacher")

  def _student_labels(self):
    return self._on_labels("student_labels", "student on labels only", "student")

  def _auxiliary_labels(self):
    return self._on_labels("auxiliary_labels", "auxiliary on labels", "auxiliary")

  def _auxiliary(self):
    model = self._model("auxiliary")
    if self.config.auxiliary_weights is not None:
      weights = np.load(self.config.auxiliary_weights)
      return stages.Stage(
        "auxiliary",
        "auxiliary, imported",
        model,
        make_method=None,
        epochs=0,
        variables=models.from_torch(model, weights),
      )
    teacher = self._model("teacher")
    last = {model.taps[-1]: teacher.taps[-1]}

    def make():
      start = self.runner.network("auxiliary_labels", model).variables
      return self._distilled(
        model,
        self.runner.network("teacher", teacher),
        pairs=last,
        weights=dict.fromkeys(last, 1.0),
        optimizer=self._adam("auxiliary"),
        initial=start,
      )

    return stages.Stage(
      "auxiliary",
      "auxiliary from the teacher, last tap",
      model,
      make,
      self._epochs("auxiliary"),
      teacher="teacher",
    )

  def _student(self):
    model, auxiliary = self._model("student"), self._model("auxiliary")
    if len(model.taps) != len(auxiliary.taps):
      raise ValueError(
        f"--student_network and --auxiliary_network: expected as many taps, got "
        f"{model.taps} and {auxiliary.taps}; take the same network in two widths"
      )
    pairs = dict(zip(model.taps, auxiliary.taps, strict=True))
    schedule = schedules.critical_period(
      self.config.initial_weight,
      self.config.weight_decay_per_epoch,
      steps_per_epoch=self.training.steps_per_epoch,
      by_step=self.config.schedule_by_step,
    )
    weights = dict.fromkeys(model.taps[:-1], schedule) | {model.taps[-1]: 1.0}

    def make():
      return self._distilled(
        model,
        self.runner.network("auxiliary", auxiliary),
        pairs=pairs,
        weights=weights,
        optimizer=self._adam("student", reset=self.config.reset_optimizer),
        label_weight=self.config.label_weight,
      )

    return stages.Stage(
      "student",
      "student by information flow",
      model,
      make,
      self._epochs("student"),
      teacher="auxiliary",
      classifies=self.config.label_weight > 0,
      init_name="student",
    )

  def _on_labels(self, name, title, role):
    model = self._model(role)
    return stages.Stage(
      name,
      title,
      model,
      lambda: methods.supervised(model, self._adam(name)),
      self._epochs(name),
      init_name=role,
    )

  def _distilled(self, model, teacher, **options) -> methods.Method:
    matching_options: dict[str, Any] = {"kernel_names": self.config.kernels}
    if self.config.matching == "probabilities":
      matching_options["divergence_name"] = self.config.divergence
      matching_options["authors"] = self.config.authors
    else:
      matching_options["num_classes"] = self.num_classes
    frozen = methods.Network(teacher.model.clone(axis_name=None), teacher.variables)
    return methods.information_flow(
      model,
      frozen,
      matching=self.config.matching,
      matching_options=matching_options,
      **options,
    )

  def _model(self, role):
    return models.by_name(
      getattr(self.config, f"{role}_network"),
      num_classes=self.num_classes,
      dtype=jnp.bfloat16 if self.config.mixed_precision else jnp.float32,
      axis_name="batch",
    )

  def _epochs(self, name) -> int:
    return sum(epochs for epochs, _ in self._phases(name))

  def _phases(self, name):
    return phases(getattr(self.config, f"{name}_epochs"), name)

  def _adam(self, name, *, reset: bool = False) -> optax.GradientTransformation:
    """Adam with a constant learning rate per phase."""
    rates = [rate for _, rate in self._phases(name)]
    ends = np.cumsum([epochs for epochs, _ in self._phases(name)])[:-1]
    boundaries = (ends * self.training.steps_per_epoch).tolist()
    schedule = optax.join_schedules(
      [optax.constant_schedule(rate) for rate in rates], boundaries
    )
    moments = optax.scale_by_adam()
    if reset:
      moments = schedules.reset_every(moments, self.training.steps_per_epoch)
    return optax.chain(moments, optax.scale_by_learning_rate(schedule))


def _check_choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f"{flag}: expected one of {', '.join(choices)}, got {value!r}")


if __name__ == "__main__":
  launch.launch(Config, configure, run)
