"""Extraction with encoders that share a space stores their vectors, whatever is lost on the way."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

from data_pipeline.config import EncoderConfig, ExtractionConfig, ShardingConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.extraction.extraction import extract
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.verify import verify
from tests.clip_checkpoints import save_checkpoint

SHARED, LONG = "a dog runs", "a dog runs in the red square " * 4


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]
) -> ExtractionConfig:
    folder = tmp_path_factory.mktemp("joint")
    (folder / "videos").mkdir()
    rows = []
    for number in range(3):
        make_video(folder / "videos" / f"v{number}.mp4", frames=10 + number)
        for query in (SHARED, f"a {['cat', 'dog', 'person'][number]} sleeps"):
            row = {
                "qid": len(rows),
                "query": query,
                "vid": f"v{number}",
                "duration": 1 + number / 10,
            }
            rows.append(row)
    rows[-1]["query"] = LONG
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_checkpoint(folder / "clip", "clip")
    return ExtractionConfig(
        annotations=folder / "rows.jsonl",
        videos=folder / "videos",
        output=folder / "set",
        encoder=EncoderConfig(
            video="clip",
            text="clip",
            video_layers=(1,),
            text_layers=(0, 1),
            checkpoint=str(folder / "clip"),
            clip_length=0.5,
            batch=2,
        ),
        sharding=ShardingConfig(videos=2),
        workers=1,
    )


def test_a_set_holds_the_vectors_of_clips_and_sentences(config: ExtractionConfig) -> None:
    summary = extract(config)
    features = FeatureSet(config.output)
    assert features.joint_width == 20
    encoder = FeatureEncoder(config.encoder)
    for index, entry in enumerate(features.samples):
        sample = features.read(index)
        assert sample.joint is not None
        clips = encoder.encode_video(Path(config.videos) / f"{entry.vid}.mp4").joint
        np.testing.assert_array_equal(sample.joint[: entry.clips], clips)
        sentences = [query.annotation.query for query in sample.queries]
        for vector, alone in zip(
            sample.joint[entry.clips :], encoder.encode_sentences(sentences), strict=True
        ):
            np.testing.assert_array_equal(vector, alone.joint)
    assert list(verify(config.output, config.annotations)) == []

    output = Path(config.output)
    assert summary.sentences_cut == 1
    (row,) = map(json.loads, (output / "unread.jsonl").read_text().splitlines())
    assert row == {"qid": 5, "tokens": 14}  # 28 words, 14 of which are read

    lost = (output / "00001.tar").read_bytes()
    (output / "00001.tar").unlink()
    assert extract(config).shards_made == 1
    assert (output / "00001.tar").read_bytes() == lost


def test_a_set_begun_without_vectors_is_not_finished_with_them(config: ExtractionConfig) -> None:
    plan = Path(config.output) / "plan.json"
    older = json.loads(plan.read_text())
    del older["joint"]
    plan.write_text(json.dumps(older))
    with pytest.raises(InputError, match="joint: None, not 20"):
        extract(config)
