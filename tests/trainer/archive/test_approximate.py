"""FAISS finds what an exact search finds, and says how much of it."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.mapped import Mapped, write_arrays
from tests.conftest import PROVENANCE
from tests.trainer.archive.test_index import contents
from trainer.archive import approximate
from trainer.archive.approximate import approximately, train
from trainer.archive.cells import library
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index, and another that FAISS was trained on."""
    folder = tmp_path_factory.mktemp("made")
    grow(folder / "large", range(600), PROVENANCE)
    shutil.copytree(folder / "large", folder / "trained")
    with writer(folder / "trained", "", None) as target:
        train(target, "sq8", vectors(20, 7))
    return folder


@pytest.fixture
def large(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made / "large", tmp_path / "index"))


@pytest.fixture
def trained(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made / "trained", tmp_path / "index"))


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


def test_the_first_is_found_of_lonely_clips_too(large: Path) -> None:
    away = np.random.default_rng(5).normal(size=(40, WIDTH)).astype(np.float32)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    with writer(large, "", None) as target:
        with target.appending() as appender:
            for number, row in enumerate(away):
                appender.add(0, Row(600 + number, f"lonely{number}", row[None].astype(np.float16)))
            counted = appender.counted()
        target.commit(counted)
        measured = train(target, "sq8", vectors(40, 7))
    assert measured.lonely == approximate.LONELY
    assert measured.trained.first >= approximate.FIRST
    index = Index(large)
    asked = approximate._turned(away.astype(np.float16), 0.8)
    expected = [found[0].video for found in candidates(index, asked, 1, CLIPS)]
    found = [found[0].video for found in approximately(index)(asked, 1, CLIPS)]
    assert np.mean(np.array(found) == expected) >= 0.95


def test_rows_that_were_added_since_are_all_compared(trained: Path, provenance: object) -> None:
    grow(trained, range(600, 640), provenance)
    index = Index(trained)
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


def test_a_damaged_or_foreign_file_of_faiss_is_one_line(trained: Path, tmp_path: Path) -> None:
    (path,) = trained.glob("faiss.*")
    shutil.copy(path, tmp_path / "good")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    for damaged in (bytes(data), path.read_bytes()[:-9], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged; train it again"):
            approximately(Index(trained))
    path.unlink()
    with pytest.raises(InputError, match="train it again"):
        approximately(Index(trained))


@pytest.mark.parametrize(
    "change",
    [
        *({"rows": 10**9}, {"rows": -1}, {"rows": 11_999}, {"probes": 0}, {"probes": 2**40}),
        *({"kind": "ivfpq"}, {"kind": "flat"}, {"kind": []}, {"more": 1}),
        *({"file": "../faiss.x.safetensors"}, {"file": 3}, {"file": "faiss"}),
    ],
)
def test_what_does_not_fit_the_index_is_one_line(trained: Path, change: dict[str, object]) -> None:
    index = Index(trained)
    index.manifest.approximate.update(change)  # type: ignore[union-attr]
    with pytest.raises(InputError) as caught:
        approximately(index)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sizes", lambda sizes: sizes[:-1]),
        ("sizes", lambda sizes: sizes + np.eye(1, len(sizes), dtype=np.int64)[0]),
        ("sizes", lambda sizes: sizes + np.eye(1, len(sizes), dtype=np.int64)[0] * [-(10**6)]),
        ("sizes", lambda sizes: np.roll([*sizes[2:], -1, sizes[:2].sum() + 1], 2)),
        ("sizes", lambda sizes: sizes[:0]),
        ("ids", lambda ids: ids + 1),
        ("ids", lambda ids: ids - 1),
        ("ids", lambda ids: ids[1:]),
        ("codes", lambda codes: codes[:-1]),
        ("codes", lambda codes: codes.view(np.int64)),
        ("centroids", lambda centroids: centroids[:-1]),
        ("centroids", lambda centroids: centroids.astype(np.float64)),
        ("learnt", lambda learnt: learnt[:-1]),
    ],
)
def test_cells_of_other_lengths_or_rows_never_reach_faiss(
    trained: Path, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    (path,) = trained.glob("faiss.*")
    arrays = {each: np.array(array) for each, array in Mapped.of_file(path).items()}
    with open(path, "wb") as file:
        write_arrays(file, arrays | {name: change(arrays[name])}, {})
    reseal(trained, path)
    with pytest.raises(InputError, match=r"malformed .*; train it again"):
        approximately(Index(trained))


def test_a_file_of_faiss_own_is_not_read(trained: Path) -> None:
    (path,) = trained.glob("faiss.*")
    faiss = library()
    flat = faiss.IndexFlatIP(WIDTH)
    path.unlink()
    faiss.write_index(flat, str(path))
    reseal(trained, path)
    with pytest.raises(InputError, match="malformed"):
        approximately(Index(trained))


def reseal(folder: Path, path: Path) -> None:
    """Name a file by its bytes, and have index.json name it, as who forges it would."""
    name = approximate.named(path)
    path.rename(path.with_name(name))
    manifest = json.loads((folder / "index.json").read_text())
    manifest["approximate"]["file"] = name
    (folder / "index.json").write_text(json.dumps(manifest))


def test_few_clips_need_no_faiss(indexed: Path) -> None:
    with writer(indexed, "", None) as target, pytest.raises(InputError, match="at once"):
        train(target, "sq8", vectors(1, 1))
    assert not list(indexed.glob("faiss*"))


def test_without_faiss_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="search"):
        library()
