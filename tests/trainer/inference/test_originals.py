"""Are the rows of a preset those that the originals' scripts wrote, on recorded outputs?"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.annotations import Annotation
from trainer.config import PostprocessConfig
from trainer.inference.originals import original_row

GOLDENS = Path(__file__).parents[2] / "goldens"


@pytest.mark.parametrize("model", ["moment_detr", "qd_detr"])
@pytest.mark.parametrize(("suppression", "rows"), [("none", "rows"), ("hard", "rows_nms_07")])
def test_submission_rows_are_the_recorded_ones(model, suppression, rows):
    recorded = json.loads((GOLDENS / model / "postprocess_small.json").read_text())
    config = PostprocessConfig(original=model, suppression=suppression)
    for sample, row in zip(recorded["samples"], recorded[rows], strict=True):
        meta = sample["meta"]
        annotation = Annotation(meta["qid"], meta["query"], meta["vid"], float(meta["duration"]))
        moment, no_moment = torch.tensor(sample["pred_logits"]).unbind(1)
        found = original_row(
            annotation,
            torch.tensor(sample["pred_spans"]),
            (moment - no_moment).sigmoid(),
            np.array(sample["saliency_scores"])[: sample["video_length"]],
            config,
        )
        assert found == row


def test_only_the_ten_best_windows_are_held_against_each_other():
    count = 12
    spans = torch.tensor([[0.5, 0.5]] * 10 + [[0.1, 0.1], [0.9, 0.1]])
    config = PostprocessConfig(original="moment_detr", suppression="hard")
    annotation = Annotation("0", "q", "v", 150.0)
    row = original_row(annotation, spans, torch.linspace(0.9, 0.1, count), np.zeros(1), config)
    assert [window[:2] for window in row["pred_relevant_windows"]] == [[38.0, 112.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"original": "univtg"}, "not one of none, moment"), ({"suppression": "linear"}, "as publis")],
)
def test_what_a_preset_does_not_have_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PostprocessConfig(**{"original": "qd_detr"} | settings)
