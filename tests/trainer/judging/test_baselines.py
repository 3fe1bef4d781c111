"""Baselines stand beside every result, that of the encoders alone where a set has their vectors."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from data_pipeline.annotations import Annotation
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.writing import ShardWriter, write_manifest
from tests.conftest import PROVENANCE, build_sample
from trainer.judging import baselines
from trainer.judging.evaluation import score
from trainer.judging.results import print_result
from trainer.metrics import not_beaten


@pytest.fixture
def shared(tmp_path: Path) -> tuple[FeatureSet, list[Annotation]]:
    """Videos whose relevant clips have the very vector of the sentence, in noise."""
    random = np.random.default_rng(0)
    with ShardWriter(tmp_path, "00000") as writer:
        for number in range(4):
            sample = build_sample(random, f"v{number}", queries=4)
            joint = random.normal(0, 0.3, (len(sample.video) + 4, 16)).astype(np.float16)
            for place, query in enumerate(sample.queries):
                vector = np.eye(16)[place]
                joint[len(sample.video) + place] = vector
                for clip in query.annotation.saliency or ():
                    joint[clip] = vector
            writer.add(dataclasses.replace(sample, joint=joint))
        index = writer.commit()
    rows: dict[str, Any] = {"name": "rows", "sha256": "", "videos": 4, "queries": 16}
    write_manifest(tmp_path, "val", PROVENANCE, rows, [index])
    features = FeatureSet(tmp_path)
    samples = [features.read(number) for number in range(4)]
    return features, [query.annotation for sample in samples for query in sample.queries]


def test_what_the_encoders_find_alone_is_a_baseline(
    shared: tuple[FeatureSet, list[Annotation]],
) -> None:
    features, annotations = shared
    rows, missing = baselines.others(features, annotations[3:], seed=0)
    assert list(rows) == ["whole video", "random", "zero-shot"]
    assert missing == ""
    assert [row["qid"] for row in rows["zero-shot"]] == [a.qid for a in annotations[3:]]
    figures = score(rows["zero-shot"], annotations[3:], "qvhighlights").summary
    assert figures["R1@0.7"] > 90
    assert figures["HIT@1"] == 100
    whole = score(rows["whole video"], annotations[3:], "qvhighlights").summary
    assert whole["R1@0.7"] < 10


def test_a_damaged_video_is_answered_with_as_a_whole(
    shared: tuple[FeatureSet, list[Annotation]],
) -> None:
    features, annotations = shared
    with open(str(features.path(0)), "r+b") as tar:
        tar.seek(features.samples[1].members["joint.npy"][0] + 200)
        tar.write(b"\x11")
    rows = baselines.zero_shot(features, annotations)
    damaged = features.samples[1].vid
    for row in rows:
        windows: Any = row["pred_relevant_windows"]
        assert (len(windows) == 1 and windows[0][0] == 0) == (row["vid"] == damaged)


def test_a_set_without_vectors_says_why_a_baseline_is_missing(
    make_features: Callable[..., FeatureSet], tmp_path: Path
) -> None:
    features = make_features(tmp_path / "val", videos=2)
    queries = features.read(0).queries
    rows, missing = baselines.others(features, [query.annotation for query in queries], seed=0)
    assert list(rows) == ["whole video", "random"]
    assert "share no space" in missing
    assert "\n" not in missing


@pytest.mark.parametrize(("own", "beaten"), [(51.0, False), (50.0, True), (12.0, True)])
def test_a_model_that_does_not_beat_its_encoders_is_seen_not_to(own: float, beaten: bool) -> None:
    figures, alone = {"R1@0.5": own, "mAP": 40.0}, {"R1@0.5": 50.0, "mAP": 30.0}
    assert not_beaten(figures, alone) == (["R1@0.5"] if beaten else [])
    console = Console(record=True, width=100)
    baselines_of = {"whole video": {"R1@0.5": 99.0, "mAP": 99.0}, "zero-shot": alone}
    result = {"metrics": figures, "baselines": baselines_of, "provenance": {}}
    print_result(result, console)
    assert ("does not beat zero-shot in R1@0.5" in console.export_text()) == beaten
