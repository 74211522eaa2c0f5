"""The parts of a study."""

from experiments.studies import spec

ROWS = (spec.Run("first", "the first"), spec.Run("beside", "same launch", of="first"))


def test_folder_of_a_row_is_that_of_its_launch():
  assert [run.folder for run in ROWS] == ["first", "first"]


def test_launches_are_the_rows_that_have_one_of_their_own():
  study = spec.Study("A study", (*ROWS, spec.Run("last", "the last")))
  assert [run.name for run in study.launches] == ["first", "last"]


def test_run_shows_the_student_of_the_main_job_unless_told():
  run = spec.Run("first", "the first")
  assert (run.result, run.job, run.seeds) == ("student", "information_flow", None)
  assert spec.Study("A study", (run,)).comparison is None
