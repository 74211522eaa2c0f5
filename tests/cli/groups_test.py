"""Groups of flags."""

import dataclasses

import pytest

from flowkd_jax import jobs
from flowkd_jax.cli import compilation
from flowkd_jax.cli import groups
from flowkd_jax.cli import hosts
from flowkd_jax.jobs import fields


@pytest.mark.parametrize("job", jobs.JOBS)
def test_every_flag_of_a_job_is_in_one_group(job):
  names = [field.name for field in dataclasses.fields(jobs.load(job).Config)]
  found = groups.grouped(
    field
    for each in (jobs.load(job).Config, hosts.Config, compilation.Config)
    for field in dataclasses.fields(each)
  )
  assert set(found) <= set(groups.GROUPS)
  shown = [field.name for members in found.values() for field in members]
  others = [*groups.GROUPS["Several hosts"], "compilation_cache"]
  assert sorted(shown) == sorted([*names, *others])
  assert [*found][:2] == ["Required and common", "Data"]
  assert found["Required and common"][0].name == "workdir"


def test_every_grouped_name_is_a_flag_of_a_job():
  configs = [jobs.load(job).Config for job in jobs.JOBS]
  known = {
    field.name
    for each in (*configs, hosts.Config, compilation.Config)
    for field in dataclasses.fields(each)
  }
  names = [name for members in groups.GROUPS.values() for name in members]
  assert len(names) == len({*names})
  assert {*names} == known


def test_flags_of_scripts_are_one_group():
  config = dataclasses.make_dataclass(
    "Config", [("colour", str, fields.setting("red", "A colour."))]
  )
  assert [*groups.grouped(dataclasses.fields(config))] == ["Flags"]
