"""FAISS finds what an exact search finds, and says how much of it."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import InputError
from tests.trainer.archive.test_index import contents
from trainer.archive import approximate
from trainer.archive.approximate import approximately, train
from trainer.archive.index import Index, IndexedSet, MadeWith
from trainer.archive.searching import candidates
from trainer.archive.writing import Row, writer

pytest.importorskip("faiss", reason="needs the group `search`")

WIDTH, CLIPS = 16, 20


def vectors(count: int, seed: int) -> np.ndarray:
    """Clips about 50 topics."""
    random = np.random.default_rng(seed)
    topics = np.random.default_rng(0).normal(size=(50, WIDTH))
    found = topics[random.integers(50, size=count)] + random.normal(0, 0.4, (count, WIDTH))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def grow(folder: Path, videos: range, provenance: object) -> None:
    made = MadeWith("projected", WIDTH, "w", "a", provenance)  # type: ignore[arg-type]
    with writer(folder, "model", made) as target:
        with target.appending() as appender:
            for number in videos:
                clips = vectors(CLIPS, 1000 + number).astype(np.float16)
                appender.add(0, Row(number, f"v{number}", clips))
            counted = appender.counted()
        if not counted.sets:
            counted = replace(counted, sets=(IndexedSet("set", "hash"),))
        target.commit(counted)


@pytest.fixture
def large(tmp_path: Path, provenance: object) -> Path:
    grow(tmp_path / "index", range(600), provenance)
    return tmp_path / "index"


@pytest.mark.parametrize("kind", ["ivfpq", "sq8"])
def test_what_is_found_is_measured_and_exact_in_its_cosines(large: Path, kind: str) -> None:
    sentences = vectors(40, 7)
    with writer(large, "", None) as target:
        measured = train(target, kind, sentences)  # type: ignore[arg-type]
    assert measured.sentences == 40
    assert 0.95 <= measured.trained.recall <= 1
    index = Index(large)
    exact = candidates(index, sentences, 10, CLIPS)
    found = approximately(index)(sentences, 10, CLIPS)
    shared = [
        len({c.video for c in one} & {c.video for c in other}) / 10
        for one, other in zip(exact, found, strict=True)
    ]
    assert np.mean(shared) >= 0.9
    best = {(c.video, c.first): c.score for c in exact[0]}
    for candidate in found[0]:
        if (candidate.video, candidate.first) in best:
            assert candidate.score == pytest.approx(
                best[candidate.video, candidate.first], abs=1e-3
            )


def test_rows_that_were_added_since_are_all_compared(large: Path, provenance: object) -> None:
    with writer(large, "", None) as target:
        train(target, "sq8", vectors(20, 7))
    grow(large, range(600, 640), provenance)
    index = Index(large)
    sentence = np.asarray(index.vectors[index.rows(630)][4], np.float32)
    (found,) = approximately(index)(sentence[None], 3, CLIPS)
    assert found[0].video == 630
    assert found[0].score == pytest.approx(1, abs=1e-3)


def test_training_again_replaces_what_was_there_and_no_row(large: Path) -> None:
    before = contents(large)
    for kind in ("sq8", "ivfpq"):
        with writer(large, "", None) as target:
            train(target, kind, vectors(20, 7))  # type: ignore[arg-type]
        assert len(list(large.glob("faiss.*"))) == 1
    assert contents(large) == before


def test_a_damaged_or_foreign_file_of_faiss_is_one_line(large: Path, tmp_path: Path) -> None:
    with writer(large, "", None) as target:
        train(target, "sq8", vectors(20, 7))
    (path,) = large.glob("faiss.*")
    shutil.copy(path, tmp_path / "good")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    for damaged in (bytes(data), path.read_bytes()[:-9], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged; train it again"):
            approximately(Index(large))
    path.unlink()
    with pytest.raises(InputError, match="train it again"):
        approximately(Index(large))


@pytest.mark.parametrize(
    "change",
    [{"rows": 10**9}, {"rows": -1}, {"file": "../faiss.x.index"}, {"file": 3}, {"more": 1}],
)
def test_what_does_not_fit_the_index_is_one_line(large: Path, change: dict[str, object]) -> None:
    with writer(large, "", None) as target:
        train(target, "sq8", vectors(20, 7))
    index = Index(large)
    index.manifest.approximate.update(change)  # type: ignore[union-attr]
    with pytest.raises(InputError) as caught:
        approximately(index)
    assert "\n" not in str(caught.value)


def test_few_clips_need_no_faiss(indexed: Path) -> None:
    with writer(indexed, "", None) as target, pytest.raises(InputError, match="at once"):
        train(target, "sq8", vectors(1, 1))
    assert not list(indexed.glob("faiss*"))


def test_without_faiss_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="search"):
        approximate.library()
