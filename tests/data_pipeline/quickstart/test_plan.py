"""Plans: what is annotated is what the segments show."""

from itertools import pairwise

import numpy as np
import pytest

from data_pipeline.annotations import parse_row
from data_pipeline.quickstart.generate import plan
from data_pipeline.quickstart.kinds import DRAWN_KINDS, FILMED_KINDS
from data_pipeline.quickstart.phrases import phrasings
from data_pipeline.quickstart.plan import CLIP_SECONDS, VideoPlan

PLANS = plan(videos=120, seed=3)


def test_the_same_seed_gives_the_same_plans_and_another_seed_others() -> None:
    assert plan(videos=6, seed=3) == plan(videos=6, seed=3)
    assert plan(videos=6, seed=3) != plan(videos=6, seed=4)


def test_videos_are_spliced_without_gaps_and_last_24_to_60_seconds() -> None:
    for video in PLANS:
        assert video.segments[0].window[0] == 0
        for left, right in pairwise(video.segments):
            assert left.window[1] == right.window[0]
            assert left.kind != right.kind
        assert 24 <= video.duration <= 60


def test_no_two_kinds_of_a_video_satisfy_one_sentence() -> None:
    for video in PLANS:
        kinds = {segment.kind for segment in video.segments}
        assert len({kind.subject for kind in kinds}) == len(kinds)


def test_windows_are_exactly_the_segments_of_the_kind_that_the_sentence_names() -> None:
    for video in PLANS:
        for row in video.annotations:
            named = {
                segment.kind
                for segment in video.segments
                if row.query in phrasings(segment.kind).seen + phrasings(segment.kind).unseen
            }
            assert len(named) == 1
            shown = tuple(s.window for s in video.segments if s.kind in named)
            assert row.windows == shown
            assert row.duration == video.duration


def test_relevant_clips_are_those_that_the_windows_cover() -> None:
    for video in PLANS:
        for row in video.annotations:
            assert row.windows is not None
            assert row.saliency is not None
            covered = [
                clip
                for start, end in row.windows
                for clip in range(int(start) // CLIP_SECONDS, int(end) // CLIP_SECONDS)
            ]
            assert list(row.saliency) == covered


def test_three_annotators_score_each_relevant_clip_from_0_to_4_and_never_all_0() -> None:
    for video in PLANS:
        for row in video.annotations:
            assert row.saliency is not None
            for scores in row.saliency.values():
                assert len(scores) == 3
                assert all(score in range(5) for score in scores)
                assert max(scores) > 0


def test_annotators_prefer_clips_where_the_subject_is_large() -> None:
    quality, score = [], []
    for video in PLANS:
        for row in video.annotations:
            assert row.saliency is not None
            for clip, scores in row.saliency.items():
                segment = next(
                    s for s in video.segments if s.first_clip <= clip < s.first_clip + s.clips
                )
                middle = (clip - segment.first_clip + 0.5) / segment.clips
                quality.append(segment.prominence_at(np.array([middle]))[0])
                score.append(np.mean(scores))
    assert np.corrcoef(quality, score)[0, 1] > 0.7


def test_nearly_every_query_has_a_very_good_clip_but_not_every_clip_is_one() -> None:
    rows = [row for video in PLANS for row in video.annotations]
    best = [[max(scores) for scores in (row.saliency or {}).values()] for row in rows]
    assert np.mean([4 in clips for clips in best]) > 0.95
    assert 0.5 < np.mean([clip == 4 for clips in best for clip in clips]) < 0.9


def test_queries_of_a_video_differ_and_qids_are_unique() -> None:
    rows = [row for video in PLANS for row in video.annotations]
    assert len({row.qid for row in rows}) == len(rows)
    for video in PLANS:
        assert len({row.query for row in video.annotations}) == len(video.annotations)


def test_every_kind_shown_is_asked_about_in_training_twice() -> None:
    for video in PLANS:
        shown = len({segment.kind for segment in video.segments})
        assert len(video.annotations) == shown * (2 if video.split == "train" else 1)


def test_what_is_said_to_be_absent_is_shown_in_no_motion_and_by_no_segment() -> None:
    sentences = {
        sentence: kind
        for kind in DRAWN_KINDS + FILMED_KINDS
        for sentence in phrasings(kind).seen + phrasings(kind).unseen
    }
    for video in PLANS:
        assert len(video.absent) == (0 if video.split == "train" else len(video.annotations))
        subjects = [sentences[row.query].subject for row in video.absent]
        assert len(set(subjects)) == len(subjects)
        assert not {segment.kind.subject for segment in video.segments} & set(subjects)
        assert all(row.windows == () for row in video.absent)
        assert all(parse_row(row.to_row()) == row for row in video.absent)


def test_some_queries_have_several_windows() -> None:
    rows = [row for video in PLANS for row in video.annotations]
    assert 0.1 < np.mean([len(row.windows or ()) > 1 for row in rows]) < 0.5


def test_training_never_sees_the_phrasings_kept_for_validation() -> None:
    def sentences(videos: list[VideoPlan]) -> set[str]:
        return {row.query for video in videos for row in video.annotations}

    training = sentences([video for video in PLANS if video.split == "train"])
    reserved = {
        sentence
        for video in PLANS
        for segment in video.segments
        for sentence in phrasings(segment.kind).unseen
    }
    assert not training & reserved
    assert sentences([video for video in PLANS if video.split == "val"]) & reserved


def test_rows_survive_the_annotation_format() -> None:
    for video in PLANS:
        for row in video.annotations:
            assert parse_row(row.to_row()) == row


@pytest.mark.parametrize("videos", [3, 10, 300])
def test_every_split_gets_videos_and_training_gets_most(videos: int) -> None:
    splits = [video.split for video in plan(videos, seed=0)]
    counts = {split: splits.count(split) for split in ("train", "dev", "val")}
    assert min(counts.values()) >= 1
    assert sum(counts.values()) == videos
    if videos >= 10:
        assert counts["train"] > counts["val"] >= counts["dev"]
