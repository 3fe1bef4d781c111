"""When does a shard count as done, also after a crash at the worst moment?"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")

from data_pipeline.annotations import Annotation
from data_pipeline.extraction.job_folder import JobFolder
from data_pipeline.extraction.plan import PlannedShard
from data_pipeline.features import writing
from data_pipeline.features.samples import Sample, StoredQuery
from data_pipeline.features.writing import ShardWriter
from data_pipeline.storage import Location, NewFile

SHARD = PlannedShard("00000", (), {})


class CrashError(Exception):
    """The end of a process."""


def crash(*_: object) -> None:
    raise CrashError


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "disk":
        return Location(tmp_path)
    return Location(request.getfixturevalue("bucket"))


@pytest.fixture
def make(folder: Location) -> Callable[[float], None]:
    """Makes the shard; what it holds depends on the argument, and its size does not."""

    def run(value: float) -> None:
        features = np.full((3, 2, 4), value, np.float16)
        query = StoredQuery(Annotation("q", "a dog", "v", 6.0), (0, 3))
        with ShardWriter(folder, SHARD.name) as writer:
            writer.add(Sample("v", 6.0, 2.0, features, features, (query,)))
            writer.commit()

    return run


def is_done(folder: Location) -> bool:
    return JobFolder(folder, retry_failed=False).is_done(SHARD)


def test_a_shard_is_done_only_if_its_tar_has_the_size_that_its_index_says(
    folder: Location, make: Callable[[float], None]
) -> None:
    tar = folder / "00000.tar"
    assert not is_done(folder)
    make(1.0)
    assert is_done(folder)
    whole = tar.read_bytes()
    for wrong in (whole[:-1], whole + b"\0", b""):
        tar.write_bytes(wrong)
        assert not is_done(folder)
    tar.unlink()
    assert not is_done(folder)
    tar.write_bytes(whole)
    assert is_done(folder)


@pytest.mark.parametrize("moment", ["before the tar is replaced", "before its index is written"])
def test_a_crash_while_a_shard_is_made_again_leaves_it_undone_and_without_a_wrong_index(
    folder: Location,
    make: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    make(1.0)
    old = (folder / "00000.tar").read_bytes()
    with monkeypatch.context() as patch:
        if moment == "before the tar is replaced":
            patch.setattr(NewFile, "commit", crash)
        else:
            patch.setattr(writing, "write_json", crash)
        with pytest.raises(CrashError):
            make(2.0)
    new = (folder / "00000.tar").read_bytes()
    assert (len(new) == len(old), new == old) == (True, moment == "before the tar is replaced")
    assert not (folder / "00000.json").is_file()
    assert not is_done(folder)
    make(2.0)
    assert is_done(folder)
