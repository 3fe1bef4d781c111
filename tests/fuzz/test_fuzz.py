"""Altered files of every format are refused in one line or read as they were written.

The campaign of tens of thousands of cases is `python -m tests.fuzz`; here a few of every format.
"""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import InputError
from tests.fuzz import campaign, formats
from tests.fuzz.formats import FORMATS, Format, plain_bytes
from tests.fuzz.mutations import mutate_json, mutate_rows, mutate_yaml
from tests.fuzz.watch import Lie

CASES = 700


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("SDST_FUZZ_SEEDS", "TMPDIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    here = Path.cwd()
    yield tmp_path
    os.chdir(here)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_altered_file_ends_in_a_trace_a_hang_or_a_lie(root: Path) -> None:
    campaign.make_seeds(root, list(FORMATS))
    counts, faults = campaign.campaign(root, list(FORMATS), seed=0, cases=CASES, workers=2)
    assert faults == {}
    assert all(found["refused"] or found["accepted"] for found in counts.values())
    assert sum(counts.values(), campaign.Counter()).total() >= CASES


def started(folder: Path) -> None:
    subprocess.run(["true"], check=True)


def wrote_outside(folder: Path) -> None:
    (folder.parent / "elsewhere").write_text("x")


def read_outside(folder: Path) -> None:
    (folder / "../secret").read_text()


def tripped(folder: Path) -> None:
    raise KeyError("x")


def lied(folder: Path) -> None:
    raise Lie("other pairs")


def refused(folder: Path) -> None:
    raise InputError("f: is altered; mend it")


def refused_at_length(folder: Path) -> None:
    raise InputError("f: is\naltered")


def died(folder: Path) -> None:
    os._exit(3)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (started, "outside"),
        (wrote_outside, "outside"),
        (read_outside, "outside"),
        (tripped, "trace"),
        (lied, "silent"),
        (refused, "refused"),
        (refused_at_length, "unclear"),
        (died, "crash"),
    ],
)
def test_the_campaign_counts_what_a_reader_does(
    root: Path, monkeypatch: pytest.MonkeyPatch, read: Any, kind: str
) -> None:
    def alter(draw: random.Random, folder: Path, root: Path) -> None:
        (folder / "file").write_text("x")

    monkeypatch.setitem(FORMATS, "one", Format(lambda folder: None, alter, {"way": (read, 1.0)}))
    (root / "seeds" / "one").mkdir(parents=True)
    (root / "tmp").mkdir()
    counts, faults = campaign.campaign(root, ["one"], seed=0, cases=2, workers=1)
    assert set(counts["one"]) == {kind}
    assert bool(faults) == (kind != "refused")
    assert kind in campaign.table(counts)


@pytest.mark.parametrize("mutate", [plain_bytes, mutate_json, mutate_rows, mutate_yaml])
def test_a_seed_makes_the_same_cases_again_and_another_seed_others(mutate: Any) -> None:
    data = b'{"a": [1, 2.5, "x"], "b": {"c": null}}\n'
    first, again, other = (
        [mutate(random.Random(f"{seed}/{n}"), data, Path("/root")) for n in range(50)]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sum(changed != data for changed in first) > 40


def test_every_reader_has_a_share_of_the_cases() -> None:
    for name, kind in FORMATS.items():
        assert all(0 < share <= 1 for _, share in kind.readers.values()), name
    assert formats.SEEDS.keys() < FORMATS.keys()
