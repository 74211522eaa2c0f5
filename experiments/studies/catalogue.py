"""The studies: the runs behind each table of the results page."""

from experiments.studies import cifar100_pairs
from experiments.studies import digits
from experiments.studies import papers
from experiments.studies import recipe_search
from experiments.studies import related_methods
from experiments.studies.spec import Part
from experiments.studies.spec import Run
from experiments.studies.spec import Study

_CIFAR10 = ("--dataset=cifar10", "--data_dir={data_dir}")
_FROM_AUTHORS = (*_CIFAR10, "--auxiliary_checkpoint={auxiliary_checkpoint}")


def _from_auxiliary(name, title, stage, *flags, seeds=None):
  """A student from the authors' auxiliary."""
  stages = f"--stages=auxiliary,{stage}"
  return Run(name, title, (*_FROM_AUTHORS, stages, *flags), stage, seeds=seeds)


def _full(name, title, *flags):
  """The full method from the authors' auxiliary, for fewer epochs, with one change."""
  return _from_auxiliary(name, title, "student", "--student_epochs=20@1e-3", *flags)


def _published(*values: float) -> dict[str, float]:
  columns = ("mAP e", "mAP c", "top-100 e", "top-100 c")
  return dict(zip(columns, values, strict=True))


_BY_HAND = "block_1:stage_1,block_2:stage_2,block_3:stage_3,dense:pooled"
# No augmentation, so that a teacher's outputs are computed once for all students.
_PLAIN = (
  *_CIFAR10,
  "--noflip",
  "--crop_padding=0",
  "--teacher_network=resnet8:8",
  "--student_epochs=20@1e-3",
)


_WITH_TEACHER = (
  *_PLAIN,
  "--networks_from={workdir}/teacher/0",
  "--teacher_cache={workdir}/cache",
  "--teacher_cache_dtype=float16",
)


_SMALL_TEACHER = Run(
  "teacher",
  "the teacher, resnet8:8, 10 epochs",
  (
    *_CIFAR10,
    "--teacher_network=resnet8:8",
    "--teacher_epochs=10@5e-3",
    "--learning_rate_decay=cosine",
    "--stages=teacher",
  ),
  result="teacher",
  seeds=1,
)


def _from_resnet(name, title, *flags):
  """A student directly from the study's only teacher."""
  straight = ("--learn_from=teacher", "--stages=teacher,student")
  return Run(name, title, (*_WITH_TEACHER, *straight, *flags))


_PAIRED_BY_HAND = _from_resnet(
  "by_hand", "all taps, paired by hand", f"--layer_map={_BY_HAND}"
)


def _auxiliary(width):
  """An auxiliary of the width, between the study's only teacher and the student."""
  return Run(
    f"auxiliary_{width}",
    f"auxiliary of width {width}, then 5 epochs from the teacher",
    (
      *_WITH_TEACHER,
      f"--auxiliary_network=cnn1:{width}",
      "--auxiliary_labels_epochs=10@1e-3",
      "--auxiliary_epochs=5@1e-3",
      "--stages=teacher,auxiliary_labels,auxiliary",
    ),
    result="auxiliary",
  )


def _before_transfer(width):
  """The auxiliary of the width after its training on labels."""
  return Run(
    f"labels_{width}",
    f"auxiliary of width {width}, 10 epochs on labels",
    result="auxiliary_labels",
    of=f"auxiliary_{width}",
  )


def _from_own_auxiliary(width):
  """A student from the auxiliary of the same seed."""
  return Run(
    f"from_{width}",
    f"all taps, from the auxiliary of width {width}",
    (
      *_PLAIN,
      f"--networks_from={{workdir}}/auxiliary_{width}/{{seed}}",
      f"--auxiliary_network=cnn1:{width}",
      "--stages=auxiliary,student",
    ),
  )


# Shorter than the paper's training, so that one core trains all networks in about two
# hours. The student's training is that of the paper.
_CHAIN = (
  *_CIFAR10,
  "--teacher_network=resnet8:16",
  "--auxiliary_labels_epochs=15@1e-3,5@1e-4",
  "--auxiliary_epochs=7@1e-3,3@1e-4",
)

STUDIES = {
  "cifar10": Study(
    "The paper's CIFAR-10 study: CNN1, 50 epochs, from the authors' auxiliary",
    (
      Run(
        "labels",
        "labels only",
        (*_CIFAR10, "--stages=student_labels"),
        "student_labels",
      ),
      _from_auxiliary("kd", "KD, T = 2", "student_kd"),
      _from_auxiliary("hint", "hint, last tap, learnt projection", "student_hint"),
      _from_auxiliary("pkt", "PKT, last tap", "student_pkt"),
      _from_auxiliary(
        "constant",
        "all taps, no schedule, authors' loss",
        "student",
        "--authors",
        "--flow_weight_init=1",
        "--flow_weight_gamma=1",
      ),
      _from_auxiliary("full", "full method, authors' loss", "student", "--authors"),
      _from_auxiliary("corrected", "full method, corrected loss", "student"),
      _from_auxiliary(
        "posterior", "recipe posterior, no labels", "student", "--recipe=posterior"
      ),
      _from_auxiliary(
        "labelled", "recipe labelled, with labels", "student", "--recipe=labelled"
      ),
    ),
    published=(
      ("labels only, published", _published(35.30, 39.00, 55.87, 58.77)),
      ("full method, published", _published(49.20, 53.06, 61.54, 64.24)),
    ),
    baseline="full",
  ),
  "parts": Study(
    "Contribution of each part: the full method, 20 epochs, with one change",
    (
      _full("full", "full method, corrected loss"),
      _full("last_tap", "last tap only", "--flow_weight_init=0"),
      _full(
        "no_schedule",
        "no schedule: weights stay 1",
        "--flow_weight_init=1",
        "--flow_weight_gamma=1",
      ),
      _full("gamma_50", "gamma 0.5", "--flow_weight_gamma=0.5"),
      _full("gamma_90", "gamma 0.9", "--flow_weight_gamma=0.9"),
      _full("by_step", "schedule by step", "--schedule_by_step"),
      _full("cosine", "cosine kernel only", "--kernels=cosine"),
      _full("student_t", "Student-t kernel only", "--kernels=student_t"),
      _full("quadratic", "flow vectors (QMI, labels)", "--matching=quadratic"),
      _full("no_reset", "Adam keeps its moments", "--noreset_optimizer"),
    ),
    baseline="full",
    pictured=("full", "last_tap", "no_schedule", "gamma_50", "gamma_90", "by_step"),
  ),
  "layers": Study(
    "Directly from a ResNet-8: CNN1, 20 epochs, without augmentation",
    (
      _SMALL_TEACHER,
      Run(
        "labels",
        "labels only",
        (*_PLAIN, "--student_labels_epochs=20@1e-3", "--stages=student_labels"),
        result="student_labels",
      ),
      _from_resnet(
        "last_tap", "last tap only", f"--layer_map={_BY_HAND}", "--flow_weight_init=0"
      ),
      _PAIRED_BY_HAND,
      _from_resnet("kappa", "all taps, nearest flow", "--layer_map=kappa"),
      _from_resnet("auto", "all taps, most alike by CKA", "--layer_map=auto"),
      _from_resnet(
        "auto_trained",
        "the same, with the student trained on labels",
        "--layer_map=auto",
        "--student_labels_epochs=20@1e-3",
        "--stages=teacher,student_labels,student",
      ),
    ),
    baseline="by_hand",
    pictured=("labels", "last_tap", "by_hand", "kappa", "auto"),
  ),
  "widths": Study(
    "From a ResNet-8 with auxiliaries of other widths: CNN1, 20 epochs",
    (
      _SMALL_TEACHER,
      _PAIRED_BY_HAND._replace(title="straight from the teacher, paired by hand"),
      *(
        make(width) for width in (8, 16, 32) for make in (_before_transfer, _auxiliary)
      ),
      *(_from_own_auxiliary(width) for width in (8, 16, 32)),
    ),
    baseline="by_hand",
    pictured=("by_hand", "from_8", "from_16", "from_32"),
  ),
  "chain": Study(
    "The whole chain: ResNet-8 of width 16, CNN1-A from it, CNN1 from that",
    (
      Run(
        "teacher",
        "teacher, 15 epochs",
        (
          *_CHAIN,
          "--teacher_epochs=15@5e-3",
          "--learning_rate_decay=cosine",
          "--stages=teacher",
        ),
        result="teacher",
      ),
      Run(
        "auxiliary",
        "auxiliary, 20 epochs and 10 from the teacher",
        (
          *_CHAIN,
          "--networks_from={workdir}/teacher/{seed}",
          "--stages=teacher,auxiliary_labels,auxiliary",
        ),
        result="auxiliary",
      ),
      Run(
        "student",
        "student, full method, corrected loss",
        (
          *_CHAIN,
          "--networks_from={workdir}/auxiliary/{seed}",
          "--stages=auxiliary,student",
        ),
      ),
    ),
  ),
  "paper_chain": Study(
    "The whole chain with the paper's networks and epochs, by one command",
    (
      Run(
        "teacher",
        "teacher ResNet-18, labels, 80 epochs",
        result="teacher",
        of="student",
      ),
      Run(
        "student_labels",
        "student CNN1, labels, 50 epochs",
        result="student_labels",
        of="student",
      ),
      Run(
        "auxiliary_labels",
        "auxiliary CNN1-A, labels, 80 epochs",
        result="auxiliary_labels",
        of="student",
      ),
      Run(
        "auxiliary",
        "auxiliary from the teacher, 40 epochs",
        result="auxiliary",
        of="student",
      ),
      Run("student", "student by information flow, 50 epochs", _CIFAR10),
    ),
    published=(
      ("auxiliary, published", _published(62.12, 66.78, 73.72, 75.91)),
      (
        "student by information flow, published",
        _published(49.20, 53.06, 61.54, 64.24),
      ),
    ),
    baseline="student_labels",
  ),
  "search": recipe_search.STUDY,
  "digits": digits.METHOD,
  "transformers": digits.TRANSFORMERS,
  **related_methods.STUDIES,
  "cifar100_pairs": cifar100_pairs.STUDY,
  "cifar100_rehearsal": cifar100_pairs.REHEARSAL,
  **papers.STUDIES,
}

# Runs of several studies under one name, in the order in which they run.
QUEUES = {"papers": papers.QUEUE}


def parts(name: str) -> tuple[Part, ...]:
  """Parts of a queue; a study is its only part."""
  return QUEUES.get(name) or (Part(name),)
