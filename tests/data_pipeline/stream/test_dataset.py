"""Stored features are a collection of samples, and of pairs for a DataLoader of torch."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_pipeline import FeatureSet, PairDataset
from data_pipeline.config import DataConfig, OrderConfig
from data_pipeline.stream.stream import PairStream


@pytest.fixture
def features(splits):
    return FeatureSet(splits / "dev")


def test_a_feature_set_has_a_length_and_gives_its_videos(features):
    samples = list(features)
    assert len(features) == len(samples) == 4
    assert [sample.vid for sample in samples] == [entry.vid for entry in features.samples]
    assert np.array_equal(samples[2].video, features[2].video)
    assert features[-1].vid == samples[-1].vid
    with pytest.raises(IndexError, match="sample 4 of 4"):
        features[4]


def test_a_loader_of_torch_gives_every_pair_once_as_the_trainer_sees_it(features):
    pairs = PairDataset(features)
    loader = DataLoader(pairs, batch_size=5, shuffle=True, collate_fn=PairDataset.collate)
    batches = list(loader)
    rows = {
        annotation.qid: (batch, row)
        for batch in batches
        for row, annotation in enumerate(batch.annotations)
    }
    assert len(rows) == len(pairs) == features.pairs == 12
    config = DataConfig(eval_batch_size=4, batch_size=4, order=OrderConfig(lanes=4))
    for batch in PairStream(features, config, seed=0).evaluate():
        for own, annotation in enumerate(batch.annotations):
            other, row = rows[annotation.qid]
            for name, mask in (("video", "video_mask"), ("text", "text_mask")):
                ours, theirs = getattr(batch, name)[own], getattr(other, name)[row]
                kept, taken = getattr(batch, mask)[own], getattr(other, mask)[row]
                assert torch.equal(ours[kept], theirs[taken])
                assert not theirs[~taken].any()
            for name in ("windows", "window_mask"):
                assert torch.equal(getattr(batch, name)[own], getattr(other, name)[row])


def test_one_pair_is_a_batch_too(features):
    pairs = PairDataset(features)
    batch = PairDataset.collate([pairs[7]])
    assert torch.equal(batch.video[0], pairs[7].video)
    assert batch.annotations == [pairs[7].annotation]


def test_a_pair_beyond_the_last_is_an_index_error(features):
    pairs = PairDataset(features)
    assert pairs[-1].annotation == pairs[11].annotation
    with pytest.raises(IndexError, match="pair 12 of 12"):
        pairs[12]
