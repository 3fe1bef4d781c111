"""How do shards get made by actors that may die: each exactly once, none waiting for a dead one?"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from data_pipeline.extraction_worker import VideoDone, Worker, current_file
from data_pipeline.plan import PlannedShard
from data_pipeline.shard_writing import Failure

MAX_DEATHS = 3
"""Deaths with the same video in hand until that video is given up; workers without one that die
this often before they are ready end the job."""

GRACE = 60.0
"""Seconds beyond twice the time limit after which a silent worker is taken for stuck."""


@dataclass
class _Task:
    """A shard on a worker."""

    worker: Any
    shard: PlannedShard
    heard: float = field(default_factory=time.monotonic)


class WorkerPool:
    """A fixed number of workers, each replaced when it dies.

    `arguments` are those of `Worker`; `gpus` how many each holds. `is_done`
    tells whether a shard is committed: a worker may die between that and its last word.
    """

    def __init__(
        self,
        arguments: tuple[Any, ...],
        gpus: float,
        size: int,
        output: Path,
        time_limit: float,
        is_done: Callable[[PlannedShard], bool],
    ) -> None:
        self._class: Any = ray.remote(num_cpus=1, num_gpus=gpus)(Worker)
        self._arguments = arguments
        self._size, self._output, self._is_done = size, output, is_done
        self._patience = 2 * time_limit + GRACE
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, _Task] = {}
        self._failed_starts = 0
        self._deaths: Counter[str] = Counter()
        self._given_up: dict[str, Failure] = {}

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        running = [task.worker for task in self._running.values()]
        for worker in [*self._starting.values(), *self._idle, *running]:
            ray.kill(worker)

    def make(self, shards: Sequence[PlannedShard]) -> Iterator[VideoDone | None]:
        """Make all shards; yields what is heard of videos, and None at least once a second.

        A video may be heard of twice if its worker died. Raises RuntimeError if workers cannot
        start, and what a worker raised through a fault that is not a video's.
        """
        waiting = deque(shards)
        while waiting or self._running:
            self._start_workers(len(waiting))
            while waiting and self._idle:
                self._assign(self._idle.pop(), waiting.popleft())
            ready, _ = ray.wait([*self._starting, *self._running], num_returns=1, timeout=1.0)
            for ref in ready:
                if ref in self._starting:
                    self._welcome(ref)
                else:
                    yield from self._hear(ref, waiting)
            self._stop_stuck_workers()
            yield None

    def _start_workers(self, needed: int) -> None:
        while len(self._starting) + len(self._idle) + len(self._running) < self._size and (
            len(self._starting) + len(self._idle) < needed
        ):
            worker = self._class.remote(*self._arguments)
            self._starting[worker.load.remote()] = worker

    def _welcome(self, ref: Any) -> None:
        worker = self._starting.pop(ref)
        try:
            ray.get(ref)
        except RayTaskError as error:
            raise _cause(error) from None
        except RayActorError as error:
            self._failed_starts += 1
            if self._failed_starts >= MAX_DEATHS:
                raise RuntimeError(f"workers die while they start: {error}") from error
        else:
            self._failed_starts = 0
            self._idle.append(worker)

    def _assign(self, worker: Any, shard: PlannedShard) -> None:
        given_up = {v.vid: self._given_up[v.vid] for v in shard.videos if v.vid in self._given_up}
        stream = worker.make.options(num_returns="streaming").remote(shard, given_up)
        self._running[stream] = _Task(worker, shard)

    def _hear(self, stream: Any, waiting: deque[PlannedShard]) -> Iterator[VideoDone]:
        """Pass on a worker's next word; at its last, or at its death, take the shard back."""
        task = self._running[stream]
        task.heard = time.monotonic()
        try:
            yield ray.get(next(stream))
        except StopIteration:
            del self._running[stream]
            self._idle.append(task.worker)
        except RayTaskError as error:
            raise _cause(error) from None
        except RayError:  # the worker, its node or what it had sent is gone
            del self._running[stream]
            self._bury(task)
            if not self._is_done(task.shard):
                waiting.append(task.shard)

    def _bury(self, task: _Task) -> None:
        """Note which video the worker had in hand; one that kills workers is given up."""
        mark = current_file(self._output, task.shard.name)
        if not mark.exists():
            return
        vid = mark.read_text(encoding="utf-8")
        mark.unlink()
        self._deaths[vid] += 1
        if self._deaths[vid] >= MAX_DEATHS:
            cause = f"{vid}: {MAX_DEATHS} workers died with this video in hand"
            self._given_up[vid] = Failure(vid, "crash", cause)

    def _stop_stuck_workers(self) -> None:
        """A call into the decoder that does not return is ended with its worker."""
        for task in self._running.values():
            if time.monotonic() - task.heard > self._patience:
                mark = current_file(self._output, task.shard.name)
                if mark.exists():
                    vid = mark.read_text(encoding="utf-8")
                    cause = f"{vid}: a single decoding step took over {self._patience:g} s"
                    self._given_up[vid] = Failure(vid, "too slow", cause)
                task.heard = time.monotonic()
                ray.kill(task.worker)


def _cause(error: RayTaskError) -> Exception:
    """What the worker raised, with its trace."""
    cause: Exception = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
    return cause
