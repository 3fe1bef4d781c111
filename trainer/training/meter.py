"""What is measured of the training steps between two records, on each rank and over all of them?"""

import time
from collections.abc import Iterable, Iterator, Mapping

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor

from data_pipeline.stream.batches import PairBatch

GIGABYTE = 1e9
Records = dict[str, dict[str, float]]


class Meter:
    """Sums over the steps since the last `flush`, without a device copy or collective in between.

    Times are this process's clock. On a GPU, whose kernels run behind it, a step or a part of it is
    only what was enqueued in it; what is left to do at a record is waited for there, and counts to
    the steps before. A slow rank shows in `forward_seconds`: from the losses on, the ranks wait for
    each other.
    """

    def __init__(self, flops_per_pair: float, peak: float) -> None:
        """`flops_per_pair` of the model and `peak` operations per second of this rank's device."""
        self._flops_per_pair, self._peak = flops_per_pair, peak
        self._process = psutil.Process()
        psutil.cpu_percent()  # begins the interval that the next call measures
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._clocks: dict[str, float] = {}
        self._steps = self._pairs = self._replaced = 0
        self._seconds = self._waited = 0.0

    def add(
        self,
        pairs: int,
        seconds: float,
        waited: float,
        numbers: Mapping[str, Tensor | float],
        replaced: int = 0,
    ) -> None:
        """Count one step of `pairs` pairs that took `seconds`, `waited` of them for its batch;
        `replaced` of the pairs stand in for damaged ones.

        numbers: scalar tensors by name (losses, norms), floats for times that were measured here
        (`forward_seconds`), and `usage` (M,), see `Prediction.usage`.
        """
        for name, value in numbers.items():
            if isinstance(value, Tensor):
                self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
            else:
                self._clocks[name] = self._clocks.get(name, 0.0) + value
        self._steps += 1
        self._pairs += pairs
        self._replaced += replaced
        self._seconds += seconds
        self._waited += waited

    def flush(self, accelerator: Accelerator) -> Records:
        """Records by kind, the same on every rank; a collective, so every rank calls it.

        train: means over steps and ranks, the rate of all ranks together, the damaged pairs that
        were replaced, and the spread of step times over the ranks; usage: share of the pairs whose
        best window each learned query made; system: figures of each rank, and of each node as its
        first rank sees it. Starts anew.
        """
        if accelerator.device.type == "cuda":
            begin = time.perf_counter()
            torch.cuda.synchronize()
            self._seconds += time.perf_counter() - begin
        means = {name: total / self._steps for name, total in self._sums.items()}
        usage = means.pop("usage")
        own = self._own_figures(accelerator)
        row = torch.cat([torch.stack(list(means.values())), usage])
        row = torch.cat([row, torch.tensor(list(own.values()), device=row.device)])
        table = accelerator.gather(row[None]).cpu()  # (W, ...)
        numbers, shares, figures = table.split([len(means), len(usage), len(own)], dim=1)
        ranks = dict(zip(own, figures.T.tolist(), strict=True))  # figure -> its value on each rank
        train = dict(zip(means, numbers.mean(0).tolist(), strict=True))
        share = shares.mean(0)
        records = {
            "train": train | _over_all(ranks) | {"queries_in_use": effective_number(share)},
            "usage": {f"query_{m:02d}": value for m, value in enumerate(share.tolist())},
            "system": _per_rank(ranks),
        }
        self._clear()
        return records

    def _own_figures(self, accelerator: Accelerator) -> dict[str, float]:
        """Figures of this rank, and of its node if it is the node's first (else not a number)."""
        figures = {
            "pairs_per_second": self._pairs / self._seconds,
            "pairs_replaced": self._replaced,
            "data_wait_share": self._waited / self._seconds,
            "step_seconds": self._seconds / self._steps,
            **{name: total / self._steps for name, total in self._clocks.items()},
            "flop_utilisation": self._pairs * self._flops_per_pair / self._seconds / self._peak,
            "memory_gb": self._process.memory_info().rss / GIGABYTE,
        }
        if accelerator.device.type == "cuda":
            figures["cuda_peak_gb"] = torch.cuda.max_memory_allocated() / GIGABYTE
            torch.cuda.reset_peak_memory_stats()
        node = {
            "node_cpu_percent": psutil.cpu_percent(),
            "node_memory_percent": psutil.virtual_memory().percent,
        }
        if not accelerator.is_local_main_process:
            node = dict.fromkeys(node, float("nan"))
        return figures | node


def _over_all(ranks: dict[str, list[float]]) -> dict[str, float]:
    def mean(name: str) -> float:
        return sum(ranks[name]) / len(ranks[name])

    numbers = {name: sum(ranks[name]) for name in ("pairs_per_second", "pairs_replaced")}
    for name in ("data_wait_share", "flop_utilisation"):
        numbers[name] = mean(name)
    for name in (name for name in ranks if name.endswith("_seconds")):
        numbers |= {
            name: mean(name),
            f"{name}_fastest_rank": min(ranks[name]),
            f"{name}_slowest_rank": max(ranks[name]),
        }
    for name in ("memory_gb", "cuda_peak_gb"):
        if name in ranks:
            numbers[name] = max(ranks[name])
    return numbers


def _per_rank(ranks: dict[str, list[float]]) -> dict[str, float]:
    numbers = {}
    for name, values in ranks.items():
        if name.startswith("node_"):
            values = [value for value in values if value == value]  # nodes' first ranks, in order
        place = "node" if name.startswith("node_") else "rank"
        for number, value in enumerate(values):
            numbers[f"{place}_{number}/{name.removeprefix('node_')}"] = value
    return numbers


def effective_number(share: Tensor) -> float:
    """How many queries do the work, (M,) shares -> exp of their entropy: 1 when one query wins
    every pair (query collapse), M when all win equally often."""
    return float(torch.special.entr(share / share.sum()).sum().exp())


def timed(batches: Iterable[PairBatch]) -> Iterator[tuple[PairBatch, float]]:
    """Each batch with the seconds that were spent waiting for it."""
    source = iter(batches)
    while True:
        begin = time.perf_counter()
        with torch.profiler.record_function("data wait"):
            batch = next(source, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - begin
