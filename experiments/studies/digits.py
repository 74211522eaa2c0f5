"""Studies on the handwritten digits that scikit-learn ships: minutes on two cores."""

from experiments.studies import spec


def _also(name: str, title: str, of: str, result: str = "") -> spec.Run:
  """A network that the launch of another row trains."""
  return spec.Run(name, title, result=result or name, of=of)


_LABELS = "student digits_cnn:4, on labels only"
_FLOW = "student digits_cnn:4, by information flow"

# The run of `make demo`.
METHOD = spec.Study(
  "The whole method on handwritten digits, 40 epochs",
  (
    _also("teacher", "teacher digits_resnet:32, on labels", of="student"),
    _also("auxiliary", "auxiliary digits_cnn:16, from the teacher", of="student"),
    _also("student_labels", _LABELS, of="student"),
    spec.Run("student", _FLOW, ("--dataset=digits",)),
  ),
  baseline="student_labels",
  compared="area mAP c",
)

_FROM_TRANSFORMER = (
  "--dataset=digits",
  "--learn_from=teacher",
  "--teacher_pooling=mean",
  "--layer_map=auto",
  "--measure_every=40",
)

TRANSFORMERS = spec.Study(
  "From vision transformers, handwritten digits, 40 epochs",
  (
    _also("teacher", "teacher digits_vit, on labels", of="student"),
    _also("student_labels", _LABELS, of="student"),
    spec.Run(
      "student",
      _FLOW,
      (
        *_FROM_TRANSFORMER,
        "--teacher_network=digits_vit",
        "--stages=teacher,student_labels,student",
      ),
    ),
    _also(
      "equimo_teacher", "teacher of Equimo, on labels", of="equimo", result="teacher"
    ),
    spec.Run(
      "equimo",
      "student digits_cnn:4, from the teacher of Equimo",
      (
        *_FROM_TRANSFORMER,
        "--teacher_network=experiments.examples.equimo_vit:make",
        "--stages=teacher,student",
      ),
    ),
  ),
  baseline="student_labels",
  compared="area mAP c",
)
