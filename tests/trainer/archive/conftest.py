"""A model of six topics, sets of stored features, and the index of one of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.extraction.encoding import SentenceFeatures
from data_pipeline.features.shards import FeatureSet, Provenance
from model.config import SDSTConfig
from model.kinds import build
from model.sdst.sdst import SDST
from trainer.archive.building import Source, add_sets
from trainer.archive.writing import writer
from trainer.cli import dump_config
from trainer.inference import predict
from trainer.inference.pretrained import Export, encoder_of
from trainer.training.checkpoints import export

CONFIG = SDSTConfig(
    video_width=12, text_width=10, layers=(-1, -2), width=32, heads=4, queries=5, points=2
)
LONGEST = 10  # clips that the model sees at once; the videos have 8 to 16


class TopicEncoder:
    """Sentences "topic 3" as the sets store them; it knows no videos."""

    joint_width = None

    def __init__(self, config: Any = None, made_with: Provenance | None = None) -> None:
        self.provenance = made_with

    def encode_sentences(self, sentences: list[str], together: int = 1) -> list[SentenceFeatures]:
        found = []
        for sentence in sentences:
            features = np.random.default_rng(list(sentence.encode())).normal(0, 0.3, (4, 2, 10))
            features[:, :, int(sentence.split()[-1])] += 2
            found.append(SentenceFeatures(features.astype(np.float16), None, 0))
        return found


@pytest.fixture
def run(tmp_path: Path, provenance: Provenance, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with a model whose encoder is at hand."""
    encoder = lambda config: TopicEncoder(config, provenance)  # noqa: E731
    monkeypatch.setattr(predict, "FeatureEncoder", encoder)
    torch.manual_seed(0)
    described = Export(CONFIG, encoder_of(provenance), provenance, max_clips=LONGEST)
    export(tmp_path / "run" / "model", SDST(CONFIG), dump_config(described))
    return tmp_path / "run"


@pytest.fixture
def judging_run(run: Path, provenance: Provenance) -> Path:
    """The same with a model that judges existence."""
    torch.manual_seed(0)
    config = replace(CONFIG, existence=True)
    described = Export(config, encoder_of(provenance), provenance, max_clips=LONGEST)
    folder = run.with_name("judging")
    export(folder / "model", build(config), dump_config(described))
    return folder


@pytest.fixture
def features(tmp_path: Path, make_features: Callable[..., FeatureSet]) -> FeatureSet:
    return make_features(tmp_path / "features", videos=12, queries=2, seed=3)


@pytest.fixture
def indexed(tmp_path: Path, run: Path, features: FeatureSet) -> Path:
    """The folder of an index of `features`."""
    return index_of(tmp_path / "index", run, features)


def index_of(folder: Path, run: Path, *sets: FeatureSet) -> Path:
    source = Source(run, "projected", None)
    with writer(folder, str(run), source.made_with(sets[0])) as target:
        add_sets(target, [(each, None) for each in sets], source.blocks)
    return folder
