"""Losses as flags and files give them."""

import pytest

from flowkd_jax.jobs import loss_terms


def _table(loss, weight=1.0, options=None, taps=""):
  return {"loss": loss, "weight": weight, "options": options or {}, "taps": taps}


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("kd", [_table("kd")]),
    ("kd:0.9,pkt:30000", [_table("kd", 0.9), _table("pkt", 30000)]),
    (
      " kd ( temperature = 2 ) : 9 , dist ",
      [_table("kd", 9, {"temperature": 2}), _table("dist")],
    ),
    ("pkt[pooled]:1e3", [_table("pkt", 1000.0, taps="pooled")]),
    ("pkt[dense]", [_table("pkt", taps=[["dense", "dense"]])]),
    (
      "at[a/x:b,c](reduction=elements)",
      [
        _table("at", options={"reduction": "elements"}, taps=[["a/x", "b"], ["c", "c"]])
      ],
    ),
    (
      "pkt(authors=True):1,information_flow(kernels=[cosine,von_mises_fisher:8])",
      [
        _table("pkt", 1, {"authors": True}),
        _table("information_flow", 1.0, {"kernels": ["cosine", "von_mises_fisher:8"]}),
      ],
    ),
    (
      "dkd(temperature=warmup(4,epochs=20)):cosine(1,150,240)",
      [
        _table(
          "dkd",
          {"schedule": "cosine", "value": 1, "start": 150, "end": 240},
          {"temperature": {"schedule": "warmup", "value": 4, "epochs": 20}},
        )
      ],
    ),
  ],
)
def test_flags_are_read(text, expected):
  assert loss_terms.of_flag("--losses", text) == expected


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("", "--losses: expected NAME:WEIGHT, .*; got ''"),
    ("kd:", "--losses: expected NAME:WEIGHT, .*; got 'kd:'"),
    ("kd:1,", "--losses: expected NAME:WEIGHT"),
    ("kd:1;pkt:2", "--losses: kd: expected a weight that is a number .*got 1;pkt:2"),
    ("kd)", r"--losses: expected NAME:WEIGHT.*where character 3 is '\)'"),
    ("kd(temperature=2", "--losses: expected NAME:WEIGHT"),
    ("kd(2):1", "--losses: expected options as NAME=VALUE"),
    ("kx:1", "--losses: kx: expected names of losses, of kd, .*got 'kx'"),
    ("kd(tau=2):1", "--losses: kd: expected options of temperature.*, got tau"),
    ("kd:true", "--losses: kd: expected a weight that is a number .*, got True"),
    ("kd:-1", "--losses: kd: expected a weight of 0 or above, got -1"),
    ("kd:nan", "--losses: kd: expected a weight of 0 or above, got nan"),
    ("kd:inf", "--losses: kd: expected a weight of 0 or above, got inf"),
    ("kd:ramp(1)", "--losses: expected a schedule of warmup, cosine, critical_period"),
    ("kd:warmup(-1,2)", "--losses: kd: value: expected 0 or above, got -1"),
    ("kd:warmup(1,to=2)", "--losses: kd: warmup: expected value, epochs, by_step, got"),
    (
      "kd:warmup(1,2,1)",
      "--losses: warmup: expected value, epochs without a name, .*3",
    ),
    ("kd:warmup(1,2,epochs=3)", "--losses: expected each option once, got epochs"),
    ("kd(temperature=2,temperature=3)", "--losses: expected each option once, got t"),
    ("kd(temperature=2)(standardize=true)", "--losses: expected NAME:WEIGHT"),
    ("pkt[pooled][last_map]", "--losses: expected NAME:WEIGHT"),
    (
      "kd(standardize=no)",
      "--losses: kd: standardize: expected true or f",
    ),
    (
      "kd(standardize=warmup(1,2))",
      "--losses: kd: standardize: expected true or f",
    ),
    ("kd:warmup(1,2,by_step=no)", "--losses: kd: warmup: by_step: expected true or f"),
    ("mlkd(temperatures=[warmup(4,0),2])", "--losses: mlkd: epochs: expected a number"),
    ("kd:warmup(x,2)", "--losses: kd: value: expected a number, got 'x'"),
    ("kd[pooled]", "--losses: kd: expected no taps, as it compares logits"),
  ],
)
def test_other_forms_are_refused(text, match):
  with pytest.raises(ValueError, match=match):
    loss_terms.of_flag("--losses", text)


FILE = """
[[losses]]
loss = "dkd"
weight = {schedule = "warmup", value = 1, epochs = 20}
options = {beta = 8, temperature = 4}

[[losses]]
loss = "pkt"
taps = {dense = "block_2"}
"""


def test_a_file_gives_what_a_flag_gives(tmp_path):
  path = tmp_path / "losses.toml"
  path.write_text(FILE)
  text = "dkd(beta=8,temperature=4):warmup(1,20),pkt[dense:block_2]"
  expected = loss_terms.of_flag("--losses", text)
  assert loss_terms.of_file("--losses_file", str(path)) == expected


@pytest.mark.parametrize(
  ("content", "match"),
  [
    ("", "--losses_file: expected tables .*losses.*, got an empty file"),
    ("[losses]\nkd = 1", "--losses_file: expected tables"),
    ("[[loss]]\nloss = 'kd'", "got loss"),
    ("[[losses]]\nname = 'kd'", "table 1 of .*: expected the keys loss, weight"),
    ("[[losses]]\nloss = 'kd'\nweight = '1'", "--losses_file: kd: expected a weight"),
    ("[[losses]]\nloss = 3", "--losses_file: 3: expected names of losses"),
    ("[[losses]]\nloss = 'pkt'\ntaps = ['a']", "pkt: expected taps as pairs of names"),
    ("[[losses]]\nloss = 'kd'\noptions = 1", "kd: expected options as a table, got 1"),
    ("[[", "cannot read .* as TOML"),
  ],
)
def test_damaged_files_are_refused(content, match, tmp_path):
  path = tmp_path / "losses.toml"
  path.write_text(content)
  with pytest.raises(ValueError, match=match):
    loss_terms.of_file("--losses_file", str(path))


def test_schedules_count_in_epochs():
  text = "kd(temperature=warmup(4,2)):critical_period(8,0.5),pkt[dense]:2"
  first, second = loss_terms.terms(loss_terms.of_flag("--losses", text), 10)
  assert [float(first.weight(step)) for step in (0, 9, 10)] == [8, 8, 4]
  assert float(first.options["temperature"](10)) == 4
  assert (second.weight, second.taps) == (2, (("dense", "dense"),))
