"""The studies of the six methods at the size of their papers, for a GPU.

Each study has its control, and the paper's numbers in its titles. Nothing is tuned on
test images. `step_shapes` compiles the step of every launch. `--study=papers` runs all
launches in the order of `QUEUE` within a number of minutes.
"""

from experiments.studies import papers_federated
from experiments.studies import related_methods
from experiments.studies.spec import Arm
from experiments.studies.spec import Column
from experiments.studies.spec import Comparison
from experiments.studies.spec import Part
from experiments.studies.spec import Run
from experiments.studies.spec import Study

_CIFAR10 = ("--dataset=cifar10", "--data_dir={data_dir}")
# Only accuracy is compared, every epoch.
_PLAIN = ("--data_dir={data_dir}", "--measure=", "--nodiagnostics")
_CIFAR100 = ("--dataset=cifar100", *_PLAIN)
_EPOCH = Column("time of an epoch, ×", "epoch_seconds", form="times")

_BY_HAND = "block_1:stage_1,block_2:stage_2,block_3:stage_3,dense:pooled"
_OWN = "--networks_from={all_studies}/paper_chain/student/{seed}"


def _from_auxiliary(name, title, *flags):
  """A student from the auxiliary of `paper_chain` of the same seed, 50 epochs."""
  return Run(name, title, (*_CIFAR10, _OWN, "--stages=auxiliary,student", *flags))


def _from_teacher(name, title, *flags):
  """A student from the ResNet-18 of `paper_chain` of the same seed, 50 epochs."""
  straight = ("--learn_from=teacher", "--stages=teacher,student")
  paired = f"--layer_map={_BY_HAND}"
  return Run(name, title, (*_CIFAR10, _OWN, *straight, paired, *flags))


_RECIPES = (
  _from_auxiliary("posterior", "recipe posterior, no labels", "--recipe=posterior"),
  _from_auxiliary("labelled", "recipe labelled, with labels", "--recipe=labelled"),
  _from_teacher(
    "posterior_teacher",
    "recipe posterior straight from ResNet-18, predicted mAP c 60 or more",
    "--recipe=posterior",
  ),
)
_PARTS = (
  _from_auxiliary("last_tap", "last tap only", "--flow_weight_init=0"),
  _from_auxiliary(
    "no_schedule",
    "no schedule: weights stay 1",
    "--flow_weight_init=1",
    "--flow_weight_gamma=1",
  ),
  _from_auxiliary("cosine", "cosine kernel only", "--kernels=cosine"),
  _from_auxiliary("student_t", "Student-t kernel only", "--kernels=student_t"),
  _from_auxiliary("quadratic", "flow vectors (QMI, labels)", "--matching=quadratic"),
  _from_teacher("no_auxiliary", "no auxiliary: straight from ResNet-18"),
)
_FLOW = Study(
  "Information flow, CIFAR-10: CNN1 from an auxiliary of our own, 50 epochs",
  (
    _from_auxiliary("full", "full method"),
    *_RECIPES,
    *_PARTS,
  ),
  published=tuple(
    (title, dict(zip(("mAP e", "mAP c", "top-100 e", "top-100 c"), row, strict=True)))
    for title, row in (
      ("student, labels only, published", (35.30, 39.00, 55.87, 58.77)),
      ("auxiliary, published", (62.12, 66.78, 73.72, 75.90)),
      ("student, full method, published", (49.20, 53.06, 61.54, 64.24)),
      ("InDistill, same auxiliary, published", (50.47, 54.61, 62.60, 65.40)),
    )
  ),
  baseline="full",
)


def _scaled(epochs):
  """RepDistiller's 240 epochs, scaled; the rate drops at the same shares."""
  ends = [round(epochs * end / 240) for end in (150, 180, 210, 240)]
  lengths = [end - start for start, end in zip((0, *ends), ends, strict=False)]
  rates = ("0.05", "5e-3", "5e-4", "5e-5")
  return ",".join(f"{n}@{rate}" for n, rate in zip(lengths, rates, strict=True))


def _hierarchical(name, pair, epochs, stages):
  teacher, student = pair
  phases = _scaled(epochs)
  return Run(
    name,
    f"{teacher} → {student}, {epochs} epochs",
    (
      *_CIFAR100,
      f"--teacher_network={teacher}",
      f"--student_network={student}",
      f"--teacher_epochs={phases}",
      f"--student_epochs={phases}",
      f"--stages={stages}",
    ),
    job="hierarchical_self_supervised",
  )


_HIERARCHICAL_STAGES = (
  "student_labels,teacher,student_kd,student_kd_rotations,student_joint_labels,student"
)


def _hierarchical_study(pair, *, labels, kd, frozen, joint):
  """All arms on one pair, 60 and 240 epochs, with the numbers of the poster."""
  baselines = ("student_labels", "student_joint_labels", "student_kd_rotations")
  titles = {
    "teacher": "teacher with branches, from scratch",
    "student_labels": f"labels only (paper {labels})",
    "student_kd": f"KD from the same teacher, T = 3 (paper, plain teacher {kd})",
    "student_kd_rotations": "control: KD on four rotations",
    "student_joint_labels": "control: joint labels, no teacher",
    "student": f"the method (paper {joint}; teacher with a frozen backbone {frozen})",
  }
  arms = tuple(
    Arm(name, title, () if name == "teacher" else baselines)
    for name, title in titles.items()
  )
  teacher, student = pair
  return Study(
    f"HSAKD, CIFAR-100, {teacher} → {student}",
    tuple(
      _hierarchical(f"epochs_{epochs}", pair, epochs, _HIERARCHICAL_STAGES)
      for epochs in (60, 240)
    ),
    comparison=Comparison(
      arms,
      (
        Column("60 epochs", runs=("epochs_60",), paired=True),
        Column("240 epochs", runs=("epochs_240",), paired=True),
        _EPOCH,
      ),
      ("labels", "joint labels", "KD on rotations"),
    ),
  )


_MUTUAL = Study(
  "HSSAKD online, CIFAR-100, two networks resnet56x1",
  tuple(
    _hierarchical(
      f"epochs_{epochs}",
      ("resnet56x1", "resnet56x1"),
      epochs,
      "student_labels,student_joint_labels,online",
    )
    for epochs in (60, 240)
  ),
  comparison=Comparison(
    tuple(
      Arm(name, title, ("student_labels", "student_joint_labels"))
      for name, title in {
        "student_labels": "labels only (paper 73.00)",
        "student_joint_labels": "control: joint labels, alone",
        "online/network_1": "online, the first (paper, the better one 78.16)",
        "online/network_2": "online, the second",
      }.items()
    ),
    (
      Column("60 epochs", runs=("epochs_60",), paired=True),
      Column("240 epochs", runs=("epochs_240",), paired=True),
      _EPOCH,
    ),
    ("labels", "joint labels"),
  ),
)


def _similarity(pair, names):
  teacher, student = names
  return Run(
    pair,
    f"{teacher} → {student}",
    (
      *_CIFAR100,
      f"--teacher_network={teacher}",
      f"--student_network={student}",
      "--optimizer=sgd",
      "--batch_size=64",
      f"--teacher_epochs={_scaled(240)}",
      f"--student_epochs={_scaled(240)}",
      "--layer_map=f3:f3",
      f"--weight={3000 / 64:g}",
    ),
    job="similarity_preserving",
  )


_SIMILARITY_BASELINES = ("student_labels", "student_kd", "student_unrelated")
_SIMILARITY = Study(
  "Similarity preserving, CIFAR-100, 240 epochs as in RepDistiller",
  (
    _similarity("wrn40_2_wrn16_2", ("wrn_40_2", "wrn_16_2")),
    _similarity("r56_r20", ("resnet56x1", "resnet20x1")),
  ),
  comparison=Comparison(
    tuple(
      Arm(name, title, () if name == "teacher" else _SIMILARITY_BASELINES)
      for name, title in {
        "teacher": "teacher (RepDistiller 75.61; 72.34)",
        "student_labels": "labels only (73.26; 69.06)",
        "student_kd": "KD, T = 4 (74.92; 70.66)",
        "student": "similarities of the last map (73.83; 69.67)",
        "student_unrelated": "control: similarities of other images",
      }.items()
    ),
    (
      Column("wrn_40_2 → wrn_16_2", runs=("wrn40_2_wrn16_2",), paired=True),
      Column("resnet56 → resnet20", runs=("r56_r20",), paired=True),
      _EPOCH,
    ),
    ("labels", "KD", "control"),
  ),
)

_WEIGHTS = {
  "paper": ("weights 0.7, 0.15, 0.15", ()),
  "ones": (
    "weights 1, 1, 1",
    ("--label_weight=1", "--feature_weight=1", "--ensemble_weight=1"),
  ),
}
_ENSEMBLE_EPOCHS = "60@0.1,30@0.01,30@0.001"


def _ensemble_study(depth, alone, together):
  """Five students of one depth, with the paper's numbers for each."""
  arms = []
  for number, (before, after) in enumerate(zip(alone, together, strict=True), start=1):
    baselines = (f"alone_{number}", f"shared_base/student_{number}")
    for name, title in (
      (baselines[0], f"alone (paper {before})"),
      (baselines[1], "control: shared base, labels only"),
      (f"ensemble/student_{number}", f"the method (paper {after})"),
    ):
      arms.append(Arm(name, f"student {number}: {title}", baselines))
  return Study(
    f"Online ensemble, CIFAR-100, ResNet-{depth}, five students, 120 epochs",
    tuple(
      Run(
        name,
        title,
        (
          *_CIFAR100,
          f"--network=resnet{depth}",
          "--num_students=5",
          f"--epochs={_ENSEMBLE_EPOCHS}",
          *flags,
        ),
        job="online_ensemble",
      )
      for name, (title, flags) in _WEIGHTS.items()
    ),
    comparison=Comparison(
      tuple(arms),
      (
        *(
          Column(title, runs=(name,), paired=True)
          for name, (title, _) in _WEIGHTS.items()
        ),
        _EPOCH,
      ),
      ("alone", "shared base"),
    ),
  )


_STYLES = ("photo", "art_painting", "cartoon", "sketch")
# The augmentation of DomainBed (`data.Augmentation`).
_COLORS = (
  "--crop_padding=0",
  "--min_crop_area=0.7",
  "--color_jitter=0.3",
  "--grayscale=0.1",
)


def _domains(student):
  """ERM, KD and all filters on PACS, one domain left out."""
  return Study(
    f"KDDG, PACS at 64 pixels, all images, ResNet-18 → {student}, 60 epochs",
    tuple(
      Run(
        f"without_{style}",
        f"tested on {style}",
        (
          *_PLAIN,
          "--dataset=pacs",
          "--image_size=64",
          *_COLORS,
          f"--held_out={style}",
          "--batch_size=128",
          "--teacher_network=resnet18",
          f"--student_network={student}",
          "--teacher_epochs=60@1e-3",
          "--student_epochs=60@1e-3",
          "--learning_rate_decay=cosine",
          "--matched_filter=confident",
        ),
        job="domain_generalization",
      )
      for style in _STYLES
    ),
    comparison=related_methods.domain_comparison(_STYLES),
  )


STUDIES = {
  "papers_information_flow": _FLOW,
  "papers_hsakd_r32x4_r8x4": _hierarchical_study(
    ("resnet32x4", "resnet8x4"), labels=72.95, kd=73.54, frozen=77.26, joint=77.69
  ),
  "papers_hsakd_r56_r20": _hierarchical_study(
    ("resnet56x1", "resnet20x1"), labels=69.62, kd=70.91, frozen=72.58, joint=73.73
  ),
  "papers_hssakd_online": _MUTUAL,
  "papers_similarity": _SIMILARITY,
  "papers_ensemble_32": _ensemble_study(
    32, (70.21, 67.87, 64.17, 61.85, 39.12), (70.97, 68.24, 65.67, 61.17, 42.17)
  ),
  "papers_ensemble_110": _ensemble_study(
    110, (72.64, 69.53, 67.12, 64.58, 42.26), (72.81, 70.14, 67.73, 65.08, 46.76)
  ),
  "papers_kddg_resnet18": _domains("resnet18"),
  "papers_kddg_resnet20": _domains("resnet20"),
  **papers_federated.STUDIES,
}

# The chain of seed 0 was run earlier, and its networks were not kept.
_TWO, _THIRD = ("1", "2"), ("3",)
_HSAKD = ("papers_hsakd_r32x4_r8x4", "papers_hsakd_r56_r20", "papers_hssakd_online")
_FIRST = ("full", *(run.name for run in _RECIPES))
QUEUE = (
  Part("paper_chain", (), _TWO),
  Part("papers_information_flow", _FIRST, _TWO),
  Part("paper_chain", (), _THIRD),
  Part("papers_information_flow", _FIRST, _THIRD),
  Part("papers_information_flow", tuple(run.name for run in _PARTS), _TWO + _THIRD),
  *(Part(name, ("epochs_60",)) for name in _HSAKD),
  *(Part(name, ("epochs_240",)) for name in _HSAKD),
  Part("papers_similarity"),
  Part("papers_ensemble_32"),
  Part("papers_ensemble_110"),
  Part("papers_kddg_resnet20", (), ("0", "1", "2", "3", "4")),
  Part("papers_kddg_resnet18", (), ("0", "1", "2", "3", "4")),
  Part(papers_federated.SEARCH, (), ("9",)),
  Part("papers_fedgen_mnist"),
  Part("papers_fedgen_cifar10"),
)
