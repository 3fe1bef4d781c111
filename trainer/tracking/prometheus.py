"""What can a Prometheus ask of a training or an extraction while it runs?

Off unless `tracking.prometheus` names an address. The numbers stand ready in memory: asking costs
the work nothing, and who never asks costs nothing either. Only the main process of a training
offers any; they are those of all ranks.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from data_pipeline.errors import InputError
from trainer.config import address_of

if TYPE_CHECKING:
    from data_pipeline.extraction.job import Progress

GIGABYTE = 1e9

RATES = {
    "loss": ("loss", "Mean loss of the steps of the newest record"),
    "gradient_norm": ("gradient_norm", "Norm of the gradient over all ranks, before clipping"),
    "lr": ("learning_rate", "Highest learning rate of the parameter groups"),
    "pairs_per_second": ("pairs_per_second", "Pairs that all ranks together train on in a second"),
    "step_seconds": ("step_seconds", "Seconds of an optimizer step, mean of the ranks"),
    "data_wait_share": ("data_wait_ratio", "Part of a step's time spent waiting for its batch"),
    "flop_utilisation": ("flop_utilisation_ratio", "Operations done, of those that could be"),
}
"""Numbers of a training record that have a name of their own: what follows `sdst_training_`."""

OF_A_RANK = {
    "step_seconds": ("rank_step_seconds", "Seconds of an optimizer step on this rank", 1.0),
    "data_wait_share": ("rank_data_wait_ratio", "Part of a step's time this rank waited", 1.0),
    "memory_gb": ("rank_memory_bytes", "Resident memory of this rank's process", GIGABYTE),
    "cuda_peak_gb": ("rank_gpu_memory_bytes", "Most GPU memory since the last record", GIGABYTE),
}
"""Numbers of a system record, by rank, and in which unit they are kept there."""


class TrainingMetrics:
    """The numbers of one training, under names that begin with `sdst_training_`."""

    def __init__(self, run: str, steps: int) -> None:
        """`steps` are those of the whole run, evaluations aside."""
        self.registry, self._run = CollectorRegistry(), run
        self._step = self._gauge("step", "Optimizer steps done")
        self._beat = self._gauge(
            "last_step_timestamp_seconds", "When the newest step or evaluation ended, since 1970"
        )
        self._saved = self._gauge(
            "checkpoint_timestamp_seconds",
            "When the state was saved that a crash would go back to; the start where none was",
        )
        self._pause = self._gauge("checkpoint_pause_seconds", "Time that saving held training up")
        self._write = self._gauge("checkpoint_write_seconds", "Time that the last write took")
        self._skipped = self._gauge("steps_skipped", "Steps left out as not finite, of the run")
        self._replaced = self._counter("pairs_replaced", "Damaged pairs that others stood in for")
        self._rates = {key: self._gauge(*names) for key, names in RATES.items()}
        self._record = self._gauge(
            "record", "A number of the newest training record, by its name there", "name"
        )
        self._score = self._gauge("score", "The newest evaluation, in %", "split", "metric")
        self._ranks = {
            key: self._gauge(name, help, "rank") for key, (name, help, _) in OF_A_RANK.items()
        }
        self._gauge("steps", "Optimizer steps of the whole run").labels(run).set(steps)
        for clock in (self._beat, self._saved):
            clock.labels(run).set(time.time())

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"sdst_training_{name}", help, ("run", *labels), registry=self.registry)

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"sdst_training_{name}", help, ("run",), registry=self.registry)

    def moved(self, step: int, skipped: int) -> None:
        """A step is done; `skipped` were left out so far."""
        self._step.labels(self._run).set(step)
        self._skipped.labels(self._run).set(skipped)
        self._beat.labels(self._run).set(time.time())

    def log(self, kind: str, numbers: Mapping[str, float]) -> None:
        """Take over a record as the tracker gets it."""
        run = self._run
        if kind == "train":
            for name, value in numbers.items():
                self._record.labels(run, name).set(value)
                if name in self._rates:
                    self._rates[name].labels(run).set(value)
            self._replaced.labels(run).inc(numbers.get("pairs_replaced", 0.0))
        elif kind == "system":
            for name, value in numbers.items():
                place, _, figure = name.partition("/")
                if place.startswith("rank_") and figure in self._ranks:
                    rank = place.removeprefix("rank_")
                    self._ranks[figure].labels(run, rank).set(value * OF_A_RANK[figure][2])
        elif kind == "checkpoint":
            self._saved.labels(run).set(time.time())
            self._pause.labels(run).set(numbers["pause"])
            self._write.labels(run).set(numbers["previous_write"])
        elif kind in ("eval", "report"):
            self._beat.labels(run).set(time.time())
            split = "selection" if kind == "eval" else "report"
            for name, value in numbers.items():
                self._score.labels(run, split, name).set(value)


class ExtractionMetrics:
    """The numbers of one job that makes shards, under names that begin with `sdst_extraction_`."""

    def __init__(self, split: str) -> None:
        self.registry, self._split = CollectorRegistry(), split
        self._planned = self._gauge("videos", "Videos to do in this run, as far as known")
        self._done = self._gauge("videos_done", "Videos stored or set aside in this run")
        self._failed = self._gauge("videos_failed", "Of those, videos that could not be read")
        self._clips = self._gauge("clips_done", "Clips stored in this run")
        self._workers = self._gauge("workers", "Encoders that this run may have")
        self._busy = self._gauge("busy_seconds", "Workers' time, by what it went into", "part")
        self._utilisation = self._gauge("encoder_utilisation_ratio", "Part that the encoders run")
        self._beat = self._gauge(
            "last_video_timestamp_seconds", "When the last video was done, since 1970"
        )
        self._beat.labels(split).set(time.time())
        self._last = (0, 0)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"sdst_extraction_{name}", help, ("split", *labels), registry=self.registry)

    def show(self, progress: "Progress") -> None:
        """How far the job is, about once a second."""
        split = self._split
        self._planned.labels(split).set(math.nan if progress.open_ended else progress.videos)
        self._done.labels(split).set(progress.done)
        self._failed.labels(split).set(progress.failed)
        self._clips.labels(split).set(progress.clips)
        self._workers.labels(split).set(progress.workers)
        self._utilisation.labels(split).set(progress.utilisation)
        for part in ("decode", "encode", "write"):
            self._busy.labels(split, part).set(getattr(progress.busy, part))
        done = (progress.done, progress.sentences_done)
        if done != self._last:  # a video done anew by another worker moves it, too
            self._last = done
            self._beat.labels(split).set(time.time())


@contextmanager
def offered(registry: CollectorRegistry, address: str) -> Iterator[int]:
    """Answer whoever asks at `address`, as host:port, for as long as this lasts.

    Yields the port, which is a free one where 0 was asked for. Raises InputError if the address
    cannot be had.
    """
    host, port = address_of(address)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise InputError(
            f"tracking.prometheus: {address} cannot be listened at ({error.strerror or error}); "
            "name another address, or port 0 for any that is free"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
