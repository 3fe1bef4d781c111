"""A search is what looking at every clip of every video would give, only sooner."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import VideoFeatures
from data_pipeline.features.shards import FeatureSet
from tests.trainer.archive.conftest import LONGEST, index_of
from trainer.archive import archive as archive_module
from trainer.archive import searching
from trainer.archive.archive import Answer, Archive
from trainer.archive.building import remove
from trainer.archive.index import Index
from trainer.archive.searching import Candidate, candidates, highest
from trainer.archive.writing import writer
from trainer.cli import dump_config, load_config
from trainer.inference.pretrained import Export
from trainer.training.checkpoints import export

SENTENCES = ["topic 0", "topic 3", "topic 5"]


@pytest.fixture
def archive(indexed: Path) -> Archive:
    return Archive.open(indexed)


def directions(count: int, width: int) -> np.ndarray:
    vectors = np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slowly(index: Index, sentence: np.ndarray, count: int, longest: int) -> list[Candidate]:
    """Clip after clip, best first, each in a stretch of its own unless one holds it already."""
    found: list[Candidate] = []
    scores = [float(row.astype(np.float32) @ sentence) for row in index.vectors]
    for row in sorted(range(len(scores)), key=lambda row: -scores[row]):
        video, clip = int(index.clips["video"][row]), int(index.clips["clip"][row])
        if any(c.video == video and clip in range(c.first, c.end) for c in found):
            continue
        clips = int(index.videos["clips"][video])
        first = min(max(clip - longest // 2, 0), max(clips - longest, 0))
        found.append(Candidate(video, first, min(clips, first + longest), scores[row]))
    return found[:count]


@pytest.mark.parametrize("longest", [3, 6, 100])
@pytest.mark.parametrize("count", [1, 4, 99])
def test_candidates_are_those_of_a_slow_search(indexed: Path, longest: int, count: int) -> None:
    index = Index(indexed)
    sentences = directions(3, 32)
    for sentence, found in zip(
        sentences, candidates(index, sentences, count, longest), strict=True
    ):
        expected = slowly(index, sentence, count, longest)
        assert [replace(c, score=0) for c in found] == [replace(c, score=0) for c in expected]
        assert [c.score for c in found] == pytest.approx([c.score for c in expected], abs=1e-4)


def test_blocks_and_many_sentences_change_nothing(
    indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, sentences = Index(indexed), directions(5, 32)
    expected = candidates(index, sentences, 4, 6)
    monkeypatch.setattr(searching, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(searching, "SCORES_AT_ONCE", 2 * len(index))
    found = candidates(index, sentences, 4, 6)
    assert [[replace(c, score=0) for c in each] for each in found] == [
        [replace(c, score=0) for c in each] for each in expected
    ]


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_the_highest_come_first_and_equal_ones_in_their_order(count: int) -> None:
    values = np.array([1, 3, 2, 3, 0, 3, 2], np.float32)
    assert highest(values, count).tolist() == [1, 3, 5, 2, 6, 0, 4][:count]


def test_vectors_that_are_no_numbers_are_told(indexed: Path) -> None:
    (path,) = indexed.glob("vectors.*")
    data = bytearray(path.read_bytes())
    data[64 + 100 : 64 + 102] = np.float16("nan").tobytes()
    path.write_bytes(data)
    with pytest.raises(InputError, match="no numbers"):
        candidates(Index(indexed), directions(1, 32), 3, 10)


@pytest.mark.parametrize("byte", [0, 4])
def test_a_row_of_another_clip_than_its_place_says_is_told(indexed: Path, byte: int) -> None:
    (path,) = indexed.glob("clips.*")
    data = bytearray(path.read_bytes())
    data[64 + byte] ^= 8
    path.write_bytes(data)
    with pytest.raises(InputError, match="do not fit its videos"):
        candidates(Index(indexed), directions(1, 32), 99, 10)


def test_moments_are_what_the_model_finds_in_each_video(
    archive: Archive, features: FeatureSet
) -> None:
    short = [sample for sample in features if len(sample.video) <= LONGEST]
    assert short  # longer ones are seen in part
    for answer in archive.search(SENTENCES, top=10**6, candidates=10**6):
        for sample in short:
            video = VideoFeatures(np.array(sample.video), sample.duration, sample.clip_length)
            alone = archive.grounder.predict(video, [answer.query])[0]
            found = [(m.start, m.end, m.score) for m in answer.moments if m.video == sample.vid]
            assert np.array(found) == pytest.approx(np.array(alone.windows), abs=1e-4)
        scores = [moment.score for moment in answer.moments]
        assert scores == sorted(scores, reverse=True)


def test_only_candidates_are_looked_at(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    taken = FeatureSet.read
    monkeypatch.setattr(FeatureSet, "read", lambda self, n: read.append(n) or taken(self, n))
    (answer,) = archive.search("topic 3", top=5, candidates=3)
    assert len(read) == len(answer.candidates) == 3
    assert {moment.video for moment in answer.moments} <= {c[0] for c in answer.candidates}
    assert len(answer.moments) == 5


def test_moments_of_a_long_video_lie_in_its_stretches(archive: Archive) -> None:
    (answer,) = archive.search("topic 1", top=99, candidates=4)
    for moment in answer.moments:
        assert any(
            video == moment.video and start <= moment.start < moment.end <= end
            for video, start, end, _ in answer.candidates
        )


def test_stretches_in_several_batches_are_the_same(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = archive.search(SENTENCES, candidates=7)
    monkeypatch.setattr(archive_module, "CLIPS_AT_ONCE", 2 * LONGEST)
    for one, other in zip(archive.search(SENTENCES, candidates=7), expected, strict=True):
        assert [m.video for m in one.moments] == [m.video for m in other.moments]
        assert [m.score for m in one.moments] == pytest.approx(
            [m.score for m in other.moments], abs=1e-5
        )


def test_an_archive_of_another_model_is_refused(tmp_path: Path, indexed: Path, run: Path) -> None:
    model = Archive.open(indexed).grounder.model
    with torch.no_grad():
        next(model.parameters()).add_(1)
    described = load_config(Export, run / "model" / "config.yaml")
    export(tmp_path / "second" / "model", model, dump_config(described))
    with pytest.raises(InputError, match="made with other weights"):
        Archive.open(indexed, tmp_path / "second")


@pytest.mark.parametrize(("sentences", "top"), [(["topic 1", " "], 3), (["topic 1"], 0)])
def test_what_cannot_be_asked_is_one_line(archive: Archive, sentences: list[str], top: int) -> None:
    with pytest.raises(InputError):
        archive.search(sentences, top=top)


def test_an_empty_archive_answers_nothing(
    tmp_path: Path, run: Path, make_features: Callable[..., FeatureSet]
) -> None:
    folder = index_of(tmp_path / "index", run, make_features(tmp_path / "one", videos=2))
    with writer(folder, "", None) as target:
        remove(target, [str(tmp_path / "one")])
    assert Archive.open(folder).search("topic 1")[0].moments == ()


def test_what_no_video_shows_is_not_found_and_the_best_guess_is_kept(
    tmp_path: Path, judging_run: Path, features: FeatureSet
) -> None:
    archive = Archive.open(index_of(tmp_path / "judged", judging_run, features))
    export = archive.grounder.export

    def with_threshold(threshold: float) -> Answer:
        # The model is not trained: windows as sure as can be leave existence to decide.
        calibration = replace(export.calibration, threshold_of_search=threshold, window_offset=40.0)
        archive.grounder.export = replace(export, calibration=calibration)
        return archive.search("topic 3", top=99)[0]

    answer = with_threshold(0.0)
    sure = sorted({m.existence for m in answer.moments if m.existence is not None})
    assert answer.existence is not None
    assert sure[0] < answer.existence < sure[-1]
    scores = [moment.score for moment in answer.moments]
    assert scores == sorted(scores, reverse=True)
    some = with_threshold(answer.existence)
    assert {m.existence for m in some.listed} == {s for s in sure if s >= answer.existence}
    assert not some.not_found
    none = with_threshold((answer.existence + sure[-1]) / 2)  # in one video alone it would be found
    assert none.listed == ()
    assert none.moments == answer.moments
    assert none.not_found == f"not found: {answer.existence:.1%} sure that any video shows it"


def test_the_odds_of_a_search_are_the_mean_of_its_stretches(
    tmp_path: Path, judging_run: Path, features: FeatureSet
) -> None:
    archive = Archive.open(index_of(tmp_path / "judged", judging_run, features))
    export = archive.grounder.export
    calibration = replace(export.calibration, threshold=0.25, threshold_of_search=0.75)
    archive.grounder.export = replace(export, calibration=calibration)
    texts = archive.grounder.encoder.encode_sentences(["topic 3"])
    vectors = archive._vectors.of_sentences(texts)
    for count in (1, 5):
        [answer] = archive.search("topic 3", candidates=count)
        assert answer.least == 0.75
        [stretches] = archive.first_stage(vectors, count, LONGEST)
        seen = [each.existence for each in archive._look(texts[0], stretches, [])]
        assert len(seen) == count
        odds = np.mean([e / (1 - e) for e in seen if e is not None])
        assert answer.existence == pytest.approx(odds / (1 + odds))


def test_a_damaged_video_is_passed_over_and_told(indexed: Path, features: FeatureSet) -> None:
    (before,) = Archive.open(indexed).search("topic 3", top=1000)
    best = before.moments[0].video
    number = next(n for n, entry in enumerate(features.samples) if entry.vid == best)
    entry = features.samples[number]
    tar = features.path(entry.shard).local
    assert tar is not None
    data = bytearray(tar.read_bytes())
    data[entry.members["video.npy"][0] + 200] ^= 0xFF
    tar.write_bytes(data)
    (after,) = Archive.open(indexed).search("topic 3", top=1000)
    others = [moment for moment in before.moments if moment.video != best]
    assert others
    assert [m.to_row() for m in after.moments] == [m.to_row() for m in others]
    assert after.damaged
    assert all(best in line for line in after.damaged)
    assert not before.damaged
