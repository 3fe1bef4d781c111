"""Generated features: learnable, reproducible, and labelled as what they are."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from data_pipeline.annotations import Annotation, write_annotations
from data_pipeline.features.shards import FeatureSet
from tests.benchmarks.generated_features import (
    FeatureConfig,
    about,
    absent,
    concept,
    generate,
    main,
)

SMALL = FeatureConfig(video_width=24, text_width=20, layers=3)
QUERIES = ("a dog jumps over a fence", "two women eat cake", "a red car turns left")


def rows(videos: int = 6) -> list[Annotation]:
    return [
        Annotation(
            qid=f"{vid}/{number}",
            query=QUERIES[(vid + number) % 3],
            vid=f"video {vid}",
            duration=120.0 + vid,
            windows=((20.0 + 40 * number, 40.0 + 40 * number),),
        )
        for vid in range(videos)
        for number in range(2)
    ]


def test_every_query_is_stored_with_features_of_the_widths_asked_for(tmp_path):
    features = generate(rows(), tmp_path, "val", SMALL)
    assert features.pairs == 12
    assert (features.video_shape, features.text_shape) == ((3, 24), (3, 20))
    sample = features.read(0)
    assert len(sample.video) == np.ceil(sample.duration / 2)
    assert sample.queries[0].annotation in rows()


def test_a_video_has_the_same_features_in_every_subset_and_other_ones_with_another_seed(tmp_path):
    whole = generate(rows(), tmp_path / "whole", "val", SMALL)
    part = generate(rows(), tmp_path / "part", "val", SMALL, videos=2)
    other = generate(
        rows(), tmp_path / "other", "val", dataclasses.replace(SMALL, seed=1), videos=2
    )
    assert len(part.samples) == 2
    for index in range(2):
        assert np.array_equal(part.read(index).video, whole.read(index).video)
        assert np.array_equal(part.read(index).text, whole.read(index).text)
        assert not np.array_equal(other.read(index).video, whole.read(index).video)


def test_clips_resemble_the_sentence_inside_its_windows_more_than_outside(tmp_path):
    quiet = dataclasses.replace(SMALL, noise=0.1, text_noise=0.0, drift=0.0, blur=0)
    features = generate(rows(40), tmp_path, "val", quiet)
    inside, outside = [], []
    for index in range(len(features.samples)):
        sample = features.read(index)
        video = sample.video[:, -1].astype(np.float32)  # (L, Dv)
        marked = np.arange(len(video))[:, None] * 2 + 1
        for query in sample.queries:
            ((start, end),) = query.annotation.windows
            within = ((marked >= start) & (marked < end))[:, 0]
            # The mean of a sentence's true clips finds the rest of them: same latent direction.
            trace = video[within][::2].mean(0)
            inside.append(video[within][1::2] @ trace)
            outside.append(video[~within] @ trace)
    assert np.concatenate(inside).mean() > 3 * abs(np.concatenate(outside).mean())


def test_shards_say_that_they_were_generated(tmp_path):
    write_annotations(tmp_path / "rows.jsonl", rows())
    flags = ["--features.concepts=4", "--features.video_width=8", "--features.text_width=8"]
    where = ["--annotations", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out")]
    assert main([*where, "--split", "val", "--videos", "3", *flags]) == 0
    features = FeatureSet(tmp_path / "out")
    assert (len(features.samples), features.split) == (3, "val")
    assert features.provenance.video_encoder == "generated"
    assert "generated" in features.provenance.summary()["video"]


def test_widths_below_the_latent_space_are_refused_in_one_line(tmp_path, capsys):
    write_annotations(tmp_path / "rows.jsonl", rows())
    where = ["--annotations", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out")]
    assert main([*where, "--split", "val", "--features.video_width", "8"]) == 2
    assert "must be more than 12" in capsys.readouterr().err


def test_a_file_of_unlabelled_rows_has_features_too(tmp_path):
    unlabelled = [dataclasses.replace(row, windows=None) for row in rows()]
    assert generate(unlabelled, tmp_path, "test", SMALL).pairs == 12


@pytest.mark.parametrize("length", [1.0, 2.0, 5.0])
def test_clips_of_any_length_cover_the_video(tmp_path, length):
    config = dataclasses.replace(SMALL, clip_length=length)
    features = generate(rows(1), tmp_path, "val", config)
    assert features.samples[0].clips == 120 / length


def test_as_many_absent_sentences_are_planted_as_are_shown_each_about_nothing_in_the_video(
    tmp_path,
):
    asked = rows()
    planted = absent(asked, SMALL)
    assert 0 < len(planted) <= len(asked)
    about_of = lambda row: concept(about(row.query), SMALL.concepts)  # noqa: E731
    for row in planted:
        own = [other for other in asked if other.vid == row.vid]
        assert row.query in {other.query for other in asked if other.vid != row.vid}
        assert about_of(row) not in {about_of(other) for other in own}
        assert row.windows == ()
        assert row.duration == own[0].duration
    each = Counter((row.vid, about_of(row)) for row in planted)
    assert set(each.values()) == {1}
    assert len({row.qid for row in planted + asked}) == len(planted + asked)
    assert absent(asked, SMALL) == planted
    features = generate([*asked, *planted], tmp_path, "val", SMALL)
    assert features.pairs == len(asked) + len(planted)
