"""From released files to a scored run, for each family of features: the whole way in small."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.features.shards import FeatureSet
from launch import import_annotations, import_features, sweep
from tests.launch.released_layouts import write
from trainer.main import main

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

SMALL = {
    "epochs": 2,
    "data.batch_size": 4,
    "data.eval_batch_size": 4,
    "data.workers": 0,
    "model.width": 16,
    "model.queries": 4,
    "tracking.mlflow": "false",
    "eval.every": 1,
    "optim.warmup": 1,
}


def published(seed: int, videos: int = 5) -> dict[str, Any]:
    """ActivityNet's format: two sentences about each video of some 20 s."""
    random = np.random.default_rng(seed)
    return {
        f"v_{seed}x{number}": {
            "duration": float(18 + 2 * (number % 3)),
            "timestamps": random.integers(0, 18, (2, 2)).tolist(),
            "sentences": ["the dog runs", "the dog"],
        }
        for number in range(videos)
    }


def imported(folder: Path, preset: str, rows: Path, split: str) -> FeatureSet:
    """The rows' features in a preset's layout, through the command."""
    given = [json.loads(line) for line in rows.open()]
    write(folder / f"released-{split}", preset, given)
    command = {
        "preset": preset,
        "features": folder / f"released-{split}",
        "annotations": rows,
        "out": folder / "features" / split,
        "workers": 1,
    }
    assert import_features.main([f"--{key}={value}" for key, value in command.items()]) == 0
    return FeatureSet(folder / "features" / split)


@pytest.mark.parametrize(
    ("preset", "config"),
    [("moment-detr", "qvhighlights"), ("flashvtg", "charades"), ("activitynet-c3d", "activitynet")],
    ids=["streams", "tensors", "hdf5"],
)
def test_a_family_goes_from_its_files_to_a_scored_run(
    preset: str, config: str, tmp_path: Path
) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        source = tmp_path / f"{split}.json"
        source.write_text(json.dumps(published(seed)))
        rows = ["--format", "activitynet", "--out", str(tmp_path / f"{split}.jsonl")]
        assert import_annotations.main([str(source), *rows]) == 0
        features = imported(tmp_path, preset, tmp_path / f"{split}.jsonl", split)
    flags = SMALL | {
        "runs": tmp_path,
        "name": "run",
        "model.video_width": features.video_shape[1],
        "model.text_width": features.text_shape[1],
        "model.layers": [-1, -1, -1, -1],
        **{
            f"data.{role}": tmp_path / "features" / split
            for role, split in (("train", "train"), ("selection", "val"), ("report", "test"))
        },
    }
    path = ROOT / "configs" / config / "sdst.yaml"
    assert main(["--config", str(path), *(f"--{key}={value}" for key, value in flags.items())]) == 0
    result = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"R1@0.5", "mIoU"} <= set(result["metrics"])
    origin = result["provenance"]
    assert origin["features.preprocessing"] == f"imported, {preset}"
    assert "THE TEST SPLIT" in origin["report"]
    assert origin["queries"] == "10 of 10"


def test_tvsum_is_one_model_a_domain_and_the_mean_of_its_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    rows = [
        {
            "qid": number,
            "query": f"a title {number}",
            "vid": f"{domain}{number}",
            "duration": 14 + 2 * (number % 3),
            "domain": domain,
            "label": random.integers(1, 6, (7 + number % 3, 20)).tolist(),
        }
        for first, domain in ((0, "BK"), (10, "BT"))
        for number in range(first, first + 4)
    ]
    source = tmp_path / "tvsum.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [str(source), "--format", "tvsum", "--out", str(tmp_path / "rows.jsonl")]
    assert import_annotations.main(given) == 0
    features = imported(tmp_path, "tvsum-i3d", tmp_path / "rows.jsonl", "all")
    plan = tmp_path / "folds.yaml"
    plan.write_text(
        f"config: {ROOT / 'configs' / 'tvsum' / 'sdst.yaml'}\nname: tvsum\npool: true\n"
        "grid:\n  data.domain: [BK, BT]\n  data.fold: [0, 1]\n"
    )
    settings = SMALL | {
        "data.folds": 2,
        "data.batch_size": 2,
        "data.train": features.folder,
        "data.report": features.folder,
        "model.video_width": features.video_shape[1],
        "model.text_width": features.text_shape[1],
    }
    flags = [f"--set={key}={value}" for key, value in settings.items()]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert sweep.main([str(plan), "--runs", str(tmp_path / "runs"), *flags]) == 0
    folder = tmp_path / "runs" / "tvsum"
    result = json.loads((folder / "pooled" / "metrics.json").read_text())
    assert result["provenance"]["report"].startswith("8 queries, each by the one of 4 runs")
    figures = result["metrics"]
    assert figures["mAP"] == pytest.approx((figures["mAP/BK"] + figures["mAP/BT"]) / 2, abs=0.011)
    for domain in ("BK", "BT"):
        folds = [
            json.loads((folder / f"domain={domain}-fold={fold}-s0" / "metrics.json").read_text())
            for fold in (0, 1)
        ]
        parts = [each["provenance"]["part"] for each in folds]
        assert parts == [f"domain {domain}, fold {fold} of 2 held out" for fold in (0, 1)]
        mean = np.mean([each["metrics"]["mAP"] for each in folds])
        assert figures[f"mAP/{domain}"] == pytest.approx(mean, abs=0.011)
