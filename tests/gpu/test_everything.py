"""A machine with a GPU is lent for minutes: one part that fails must not cost the others."""

import json
import sys

import pytest

from tests.gpu.everything import ABSENT, Part, carry_out, parts

SLOW = (
    "import signal, sys, time; print('1,411 pairs/s', flush=True);"
    "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(75)));"
    "time.sleep(60)"
)


@pytest.mark.timeout(120)
def test_a_part_that_fails_or_runs_out_of_time_is_recorded_and_the_rest_goes_on(tmp_path):
    def say(code, name, limit=30):
        return Part(name, limit, ((sys.executable, "-c", code),))

    todo = [
        say("print('12.5 pairs/s, then 30 pairs/s')", "good"),
        say("raise SystemExit('no such kernel')", "bad"),
        say(SLOW, "slow", limit=5),
        Part("two", 30, ((sys.executable, "-c", "exit(3)"), (sys.executable, "-c", "print(1)"))),
        say("import os; print(os.environ['OMP_NUM_THREADS'])", "last"),
    ]
    results = {result.name: result for result in carry_out(todo, tmp_path)}
    told = json.loads((tmp_path / "results.json").read_text())
    assert [part["name"] for part in told["parts"]] == [
        *ABSENT,
        "good",
        "bad",
        "slow",
        "two",
        "last",
    ]
    assert results["good"].pairs_per_second == (12.5, 30.0)
    assert (results["bad"].status, results["bad"].said) == ("failed (1)", "no such kernel\n")
    assert results["slow"].status == "out of time"
    assert results["slow"].pairs_per_second == (1411.0,)
    assert results["slow"].said.endswith("saved\n")
    assert (results["two"].status, results["two"].said) == ("failed (3)", "")
    assert results["last"].status == "ok"
    assert results["graph"].status == "absent"


def test_what_no_time_is_left_for_is_recorded(tmp_path):
    results = carry_out([Part("late", 30, (("true",),))], tmp_path, seconds=0)
    assert results[-1].status == "no time left"
    assert (tmp_path / "results.json").is_file()


@pytest.mark.parametrize("gpu", [False, True])
def test_all_parts_fit_into_ten_minutes_in_the_order_that_they_build_on(gpu, tmp_path):
    todo = parts(gpu, tmp_path)
    assert sum(part.limit for part in todo) <= 590
    assert [part.name for part in todo] == [
        "tests", "profile", "matching", "features", "bucketed", "resident", "training",
        "extraction", "zero", "compile",
    ]  # fmt: skip
