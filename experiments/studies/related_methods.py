"""The studies of the related methods: small, paired, with their controls.

The sizes suit two cores. All choices of settings used images that are in neither the
training set nor the test set, and a seed that is in no table.
"""

from collections.abc import Sequence

from experiments.studies.spec import Arm
from experiments.studies.spec import Column
from experiments.studies.spec import Comparison
from experiments.studies.spec import Run
from experiments.studies.spec import Study

# Only accuracy is compared, and only that of the last epoch.
_PLAIN = ("--data_dir={data_dir}", "--measure=", "--measure_every=0")
_SMALL = ("--image_size=16", "--crop_padding=2", "--test_split=test[:5000]", *_PLAIN)
_CIFAR10 = ("--dataset=cifar10", *_SMALL)
_EPOCH = Column("time of an epoch, ×", "epoch_seconds", form="times")


def _arms(baselines, **titles):
  """Arms with the same baselines. A teacher has none, because its size differs."""
  return tuple(
    Arm(name, title, () if name == "teacher" else baselines)
    for name, title in titles.items()
  )


def _similarity(dataset, title):
  """All arms on one data set."""
  return Run(
    dataset,
    title,
    (
      *_SMALL,
      f"--dataset={dataset}",
      "--train_split=train[:10000]",
      "--batch_size=64",
      "--teacher_network=resnet8:8",
      "--student_network=resnet8:4",
      "--teacher_epochs=12@5e-3",
      "--student_epochs=12@5e-3",
      "--learning_rate_decay=cosine",
      "--layer_map=stage_3:stage_3",
      "--weight=3",
    ),
    job="similarity_preserving",
  )


_SIMILARITY = Study(
  "Similarity-preserving distillation, CIFAR at 16 pixels, 10,000 images",
  (_similarity("cifar10", "CIFAR-10"), _similarity("cifar100", "CIFAR-100")),
  comparison=Comparison(
    _arms(
      ("student_labels", "student_unrelated"),
      teacher="teacher, resnet8:8",
      student_labels="labels only, resnet8:4",
      student_kd="KD, T = 4",
      student="similarities of the last stage",
      student_unrelated="control: similarities of other images",
    ),
    (
      Column("CIFAR-10", runs=("cifar10",), paired=True),
      Column("CIFAR-100", runs=("cifar100",), paired=True),
      _EPOCH,
    ),
    ("labels", "control"),
  ),
)

_HIERARCHICAL = Study(
  "Hierarchical self-supervised distillation, CIFAR-10 at 16 pixels, 2,000 images",
  (
    Run(
      "cifar10",
      "CIFAR-10",
      (
        *_CIFAR10,
        "--train_split=train[:2000]",
        "--teacher_network=resnet8:8",
        "--student_network=resnet8:4",
        "--teacher_epochs=20@0.05",
        "--student_epochs=20@0.05",
        "--learning_rate_decay=cosine",
        "--stages=student_labels,teacher,student_kd,student_kd_rotations,"
        "student_joint_labels,student,online",
      ),
      job="hierarchical_self_supervised",
    ),
  ),
  comparison=Comparison(
    _arms(
      ("student_labels", "student_joint_labels", "student_kd_rotations"),
      **{
        "teacher": "teacher with branches, resnet8:8",
        "student_labels": "labels only, resnet8:4",
        "student_kd": "KD, T = 3",
        "student_kd_rotations": "control: KD on four rotations",
        "student_joint_labels": "control: joint labels, no teacher",
        "student": "the method: logits and branches",
        "online/network_1": "online: two students, the first",
        "online/network_2": "online: two students, the second",
      },
    ),
    (Column("accuracy", paired=True), _EPOCH),
    ("labels", "joint labels", "KD on rotations"),
  ),
)


def _student(number, width):
  """A student of the online ensemble in all arms."""
  together = ("shared_base", "ensemble")
  baselines = (f"alone_{number}", f"shared_base/student_{number}")
  titles = ("shared base, labels only", "the method")
  return (
    Arm(f"alone_{number}", f"{width}: alone", baselines),
    *(
      Arm(f"{name}/student_{number}", f"{width}: {title}", baselines)
      for name, title in zip(together, titles, strict=True)
    ),
  )


_ONLINE = Study(
  "Online ensemble, CIFAR-10 at 16 pixels, 4,000 images",
  (
    Run(
      "cifar10",
      "CIFAR-10",
      (
        *_CIFAR10,
        "--train_split=train[:4000]",
        "--batch_size=64",
        "--network=resnet8:8",
        "--num_students=3",
        "--epochs=20@0.1",
        "--learning_rate_decay=cosine",
      ),
      job="online_ensemble",
    ),
  ),
  comparison=Comparison(
    (
      *_student(1, "student 1, full width"),
      *_student(2, "student 2, 2/3"),
      *_student(3, "student 3, 1/3"),
      Arm("shared_base/ensemble", "ensemble: shared base, labels only"),
      Arm("ensemble/ensemble", "ensemble: the method", ("", "shared_base/ensemble")),
    ),
    (Column("accuracy", paired=True), _EPOCH),
    ("alone", "shared base"),
  ),
)


def _federated(name, title, *flags, **rates):
  """All arms on one split of the data, each with its own rate."""
  measured = ("--dataset=mnist", "--data_dir={data_dir}", "--measure=")
  flags = (*measured, "--measure_every=4", "--test_split=test", *flags)
  flags = (*flags, f"--stages={','.join(rates)}")
  rates = [f"--{arm}_learning_rate={rate}" for arm, rate in rates.items()]
  return Run(name, title, (*flags, *rates), job="federated")


TUNED = {
  "fedavg": 0.4,
  "fedprox": 0.4,
  "fedgen": 0.2,
  "fedgen_kl": 0.05,
  "fedgen_untrained": 0.2,
}
_FEDERATED = Study(
  "Federated distillation, MNIST at 14 pixels, 5,000 images, 20 clients",
  (
    _federated("alpha_0.05", "alpha 0.05", "--alpha=0.05", **TUNED),
    _federated("alpha_0.1", "alpha 0.1", "--alpha=0.1", **TUNED),
    _federated("alpha_1", "alpha 1", "--alpha=1", **TUNED),
  ),
  comparison=Comparison(
    _arms(
      ("fedavg",),
      fedavg="FedAvg",
      fedprox="FedProx, mu 0.01",
      fedgen="FedGen, the paper's loss",
      fedgen_kl="FedGen, with the code's KL term",
      fedgen_untrained="control: generator untrained",
    ),
    tuple(
      column
      for alpha in ("0.05", "0.1", "1")
      for column in (
        Column(f"alpha {alpha}", "averaged_accuracy", (f"alpha_{alpha}",), paired=True),
        Column("rounds to 90 %", "rounds_to_target", (f"alpha_{alpha}",), "number"),
      )
    ),
    ("FedAvg",),
    epochs="rounds",
  ),
)


def _without(domain, *flags):
  """A run that leaves one domain out of training and tests on it."""
  return Run(
    f"without_{domain}",
    f"tested on {domain}",
    (*_PLAIN, f"--held_out={domain}", "--matched_filter=confident", *flags),
    job="domain_generalization",
  )


_DOMAIN_ARMS = _arms(
  ("erm", "kd", "kd_random"),
  teacher="teacher",
  erm="ERM: labels only",
  kd="KD, T = 5",
  kd_saturated="KD, filter: less sure than the teacher",
  kd_confident="KD, filter: not yet right and confident",
  kd_small="KD, filter: entries that are not small",
  kd_random="control: KD, rows by chance, as many as above pass",
)
_DOMAIN_BASELINES = ("ERM", "KD", "control")
_DOMAIN_COLUMNS = (
  Column("source validation", "validation_accuracy"),
  Column("kept", "kept"),
  Column("distance", "distance", form="number"),
  Column("straightness", "straightness", form="number"),
  _EPOCH,
)


def _domain_columns(held_out):
  return (
    *(Column(domain, runs=(f"without_{domain}",)) for domain in held_out),
    Column("mean", paired=True),
    *_DOMAIN_COLUMNS,
  )


def domain_comparison(held_out: Sequence[str]) -> Comparison:
  """ERM, KD and every filter, with a column for each left-out domain.

  Args:
    held_out: The domains.
  """
  return Comparison(_DOMAIN_ARMS, _domain_columns(held_out), _DOMAIN_BASELINES)


_ANGLES = ("60", "0")
_ROTATED = Study(
  "Rotated MNIST at 14 pixels, 400 images an angle, one angle left out",
  tuple(
    _without(
      angle,
      "--dataset=mnist_rotated",
      "--image_size=14",
      "--domain_images=400",
      f"--test_split=test[:2000]@{angle}",
      "--batch_size=64",
      "--teacher_network=digits_cnn:16",
      "--student_network=digits_cnn:4",
      "--teacher_epochs=15@3e-3",
      "--student_epochs=15@3e-3",
    )
    for angle in _ANGLES
  ),
  comparison=domain_comparison(_ANGLES),
)

_PACS_ARMS = tuple(
  arm for arm in _DOMAIN_ARMS if arm.name not in ("kd_saturated", "kd_small")
)
_STYLES = ("photo", "art_painting", "cartoon", "sketch")


def _sources(held_out, images):
  return "+".join(f"{style}[{images}]" for style in _STYLES if style != held_out)


def _pacs(size, network, *, crop_padding):
  """The PACS study at a given image size, with networks for that size."""
  return Study(
    f"PACS at {size} pixels, 500 images a domain, one domain left out",
    tuple(
      _without(
        style,
        "--dataset=pacs",
        f"--image_size={size}",
        f"--crop_padding={crop_padding}",
        f"--train_split={_sources(style, ':500')}",
        f"--validation_split={_sources(style, '500:600')}",
        f"--test_split={style}[:1500]",
        "--batch_size=64",
        f"--teacher_network={network}:8",
        f"--student_network={network}:4",
        "--teacher_epochs=10@5e-3",
        "--student_epochs=10@5e-3",
        "--learning_rate_decay=cosine",
        "--stages=teacher,erm,kd,kd_confident,kd_random",
      )
      for style in _STYLES
    ),
    comparison=Comparison(_PACS_ARMS, _domain_columns(_STYLES), _DOMAIN_BASELINES),
  )


STUDIES = {
  "similarity_preserving": _SIMILARITY,
  "hierarchical_self_supervised": _HIERARCHICAL,
  "online_ensemble": _ONLINE,
  "federated": _FEDERATED,
  "rotated_mnist": _ROTATED,
  "pacs": _pacs(24, "resnet8", crop_padding=2),
  "pacs_64": _pacs(64, "strided_resnet8", crop_padding=4),
}
