import math
from types import SimpleNamespace

import psutil
import pytest
import torch

from trainer.training.meter import Meter, effective_number

USAGE = torch.tensor([0.5, 0.5, 0.0])


def accelerator(rows=(), first=True):
    """Stands in for a rank; the others' rows are its own, changed by the functions in `rows`."""
    return SimpleNamespace(
        device=torch.device("cpu"),
        is_local_main_process=first,
        gather=lambda row: torch.cat([row, *(change(row.clone()) for change in rows)]),
    )


def numbers(loss):
    return {"loss": torch.tensor(loss), "forward_seconds": 0.5, "usage": USAGE}


def test_losses_are_means_over_steps_and_rates_count_all_pairs():
    meter = Meter(flops_per_pair=100.0, peak=400.0)
    meter.add(8, 2.0, 0.5, numbers(3.0))
    meter.add(8, 2.0, 0.0, numbers(1.0))
    train = meter.flush(accelerator())["train"]
    assert train["loss"] == 2.0
    assert train["pairs_per_second"] == 4.0
    assert train["data_wait_share"] == 0.125
    assert train["flop_utilisation"] == 1.0
    assert train["step_seconds"] == 2.0
    assert train["memory_gb"] == pytest.approx(psutil.Process().memory_info().rss / 1e9, rel=0.2)


def test_a_flush_starts_anew():
    meter = Meter(1.0, 1.0)
    meter.add(8, 2.0, 0.5, numbers(3.0))
    meter.flush(accelerator())
    meter.add(4, 1.0, 0.0, numbers(1.0))
    assert meter.flush(accelerator())["train"]["loss"] == 1.0


def test_ranks_are_added_averaged_and_spread():
    def twice(row):
        return row * 2

    meter = Meter(1.0, 1.0)
    meter.add(8, 2.0, 0.5, numbers(3.0), replaced=1)
    meter.add(8, 2.0, 0.5, numbers(3.0), replaced=1)
    records = meter.flush(accelerator([twice]))
    train, system = records["train"], records["system"]
    assert train["loss"] == 4.5
    assert train["pairs_per_second"] == 12.0
    assert train["pairs_replaced"] == 6
    assert (train["step_seconds_fastest_rank"], train["step_seconds_slowest_rank"]) == (2.0, 4.0)
    assert train["forward_seconds_slowest_rank"] == 1.0
    assert (system["rank_0/pairs_per_second"], system["rank_1/pairs_per_second"]) == (4.0, 8.0)


def test_a_node_is_described_once_by_its_first_rank():
    def not_first(row):
        row[:, -2:] = math.nan
        return row

    meter = Meter(1.0, 1.0)
    meter.add(8, 2.0, 0.5, numbers(3.0))
    system = meter.flush(accelerator([not_first, lambda row: row, not_first]))["system"]
    assert {name for name in system if name.startswith("node")} == {
        f"node_{node}/{name}" for node in (0, 1) for name in ("cpu_percent", "memory_percent")
    }
    meter.add(8, 2.0, 0.5, numbers(3.0))
    assert not any(
        name.startswith("node") for name in meter.flush(accelerator(first=False))["system"]
    )


def test_the_usage_of_every_query_is_logged_and_how_many_do_the_work():
    meter = Meter(1.0, 1.0)
    meter.add(8, 2.0, 0.5, numbers(3.0))
    meter.add(8, 2.0, 0.5, numbers(3.0) | {"usage": torch.tensor([1.0, 0.0, 0.0])})
    records = meter.flush(accelerator())
    assert records["usage"] == {"query_00": 0.75, "query_01": 0.25, "query_02": 0.0}
    assert effective_number(torch.tensor([1.0, 0, 0])) == 1.0
    assert effective_number(torch.ones(3) / 3) == pytest.approx(3.0)
