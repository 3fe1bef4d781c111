"""Domains and folds: which videos of a set a run learns from, and which it is judged by."""

from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from data_pipeline.annotations import Annotation
from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from data_pipeline.features.samples import Sample, StoredQuery
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.writing import ShardWriter, write_manifest
from tests.conftest import PROVENANCE
from trainer.config import RULES, Config, EvalConfig
from trainer.metrics import DATASETS
from trainer.training.splits import check_selection, keep_part


def domain_set(folder: Path, rows: dict[str, str]) -> FeatureSet:
    """A set of videos, each of its domain, of two clips and one title."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    with ShardWriter(folder, "00000") as writer:
        for vid, domain in rows.items():
            saliency = {0: (4.0, 0.0), 1: (0.0, 4.0)}
            row = Annotation(vid, "a title", vid, 4.0, saliency=saliency, domain=domain)
            video = random.normal(size=(2, 2, 12)).astype(np.float16)
            text = random.normal(size=(3, 2, 10)).astype(np.float16)
            writer.add(Sample(vid, 4.0, 2.0, video, text, (StoredQuery(row, (0, 3)),)))
        index = writer.commit()
    write_manifest(folder, folder.name, PROVENANCE, {"name": "rows"}, [index])
    return FeatureSet(folder)


ROWS = {f"{domain}{number}": domain for domain in ("BK", "BT") for number in range(5)}


def kept(folder: Path, held_out: bool, **settings: Any) -> set[str]:
    features = FeatureSet(folder)
    keep_part(features, DataConfig(**settings), held_out)
    return {entry.vid for entry in features.samples}


def test_each_video_of_a_domain_is_held_out_in_one_fold(tmp_path: Path) -> None:
    domain_set(tmp_path / "all", ROWS)
    everything = {vid for vid, domain in ROWS.items() if domain == "BK"}
    assert kept(tmp_path / "all", True, domain="BK") == everything
    held = [kept(tmp_path / "all", True, domain="BK", fold=fold) for fold in range(5)]
    assert set().union(*held) == everything
    assert [len(part) for part in held] == [1] * 5
    for fold, part in enumerate(held):
        assert kept(tmp_path / "all", False, domain="BK", fold=fold) == everything - part


def test_without_a_domain_every_domain_is_dealt_into_folds(tmp_path: Path) -> None:
    domain_set(tmp_path / "all", ROWS)
    held = kept(tmp_path / "all", True, fold=3)
    assert {ROWS[vid] for vid in held} == {"BK", "BT"}
    assert len(held) == 2


def test_the_folds_do_not_depend_on_the_order_in_which_videos_are_stored(tmp_path: Path) -> None:
    domain_set(tmp_path / "a", ROWS)
    domain_set(tmp_path / "b", dict(reversed(ROWS.items())))
    for fold in range(5):
        assert kept(tmp_path / "a", True, fold=fold) == kept(tmp_path / "b", True, fold=fold)


def test_a_domain_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    domain_set(tmp_path / "all", ROWS)
    with pytest.raises(InputError, match="no domain 'XX'; there are BK, BT"):
        kept(tmp_path / "all", True, domain="XX")
    with pytest.raises(InputError, match=r"fold 9 of 10 held out: holds no video"):
        kept(tmp_path / "all", True, domain="BK", fold=9, folds=10)


def test_a_fold_may_not_choose_the_model_that_it_judges(tmp_path: Path) -> None:
    features = domain_set(tmp_path / "all", ROWS)
    place = str(tmp_path / "all")
    data = DataConfig(selection=place, report=place, fold=0)
    with pytest.raises(InputError, match="would choose the model that it judges"):
        check_selection(features, Config(data=data))
    check_selection(features, Config(data=data, eval=EvalConfig(select_on_test=True)))


@pytest.mark.parametrize("name", get_args(get_type_hints(EvalConfig)["dataset"]))
def test_every_convention_has_a_rule_by_which_a_model_is_chosen(name: Any) -> None:
    assert name in DATASETS
    assert EvalConfig(dataset=name).metric == RULES[name]
    assert EvalConfig(dataset=name, metric=("HIT@1",)).metric == ("HIT@1",)
