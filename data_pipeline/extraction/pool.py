"""How do tasks get done by actors that may die: each exactly once, none waiting for a dead one?

A task is a shard, or some sentences that several shards share.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import ray
from ray.exceptions import RayError, RayTaskError

from data_pipeline.errors import InputError
from data_pipeline.extraction.plan import PlannedSentences, PlannedShard
from data_pipeline.extraction.ray_cluster import ClusterLostError
from data_pipeline.features.writing import Failure

MAX_STARTS = 10
"""Workers in a row that may die before they are ready; more end the job."""

MAX_DEATHS = 10
"""Workers that may die with the same task in hand; more end the job."""

Task: TypeAlias = PlannedShard | PlannedSentences


@dataclass
class Seconds:
    """Where a worker's time went: reading or decoding, encoding, writing."""

    decode: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def __iadd__(self, other: "Seconds") -> "Seconds":
        self.decode += other.decode
        self.encode += other.encode
        self.write += other.write
        return self


@dataclass(frozen=True)
class VideoDone:
    """A video was taken into its shard (`failure` is None) or set aside."""

    vid: str
    clips: int = 0
    failure: Failure | None = None
    seconds: Seconds = field(default_factory=Seconds)


@dataclass(frozen=True)
class SentencesDone:
    """Sentences that several shards share were encoded and committed."""

    count: int
    seconds: Seconds


Word: TypeAlias = VideoDone | SentencesDone | Seconds
"""What a worker tells while it makes something; Seconds are further time spent."""


class ShardWorker(Protocol):
    """What a pool's actors can do. Their class is given to the pool with the actor's arguments."""

    def load(self) -> None:
        """Get ready; a worker that answers is given tasks."""

    def make(self, task: Any) -> Iterator[Word]:
        """Do a task of the kinds that the pool is given, and commit what it makes."""


@dataclass(frozen=True)
class Workers:
    """`size` actors of one class, each holding so many processors and GPUs.

    A worker may start actors of its own: they end with it. Those that encode text are given the
    sentences that several shards share before any shard.
    """

    kind: type[ShardWorker]
    arguments: tuple[Any, ...]
    size: int
    cpus: float = 1.0
    gpus: float = 0.0
    encode_text: bool = False


class WorkerPool:
    """A fixed number of workers, each replaced when it dies.

    `is_done` tells whether a task is committed: a worker may die between that and its last word.
    """

    def __init__(self, workers: Workers, is_done: Callable[[Task], bool]) -> None:
        self._class: Any = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(workers.kind)
        self._arguments, self._size = workers.arguments, workers.size
        self._is_done = is_done
        self.ready = False
        """Whether a worker has started and loaded what it needs."""
        self._starting: dict[Any, Any] = {}  # answer of `load`: worker
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Task]] = {}  # stream of `make`: worker, task
        self._failed_starts = 0
        self._deaths: Counter[tuple[type, str]] = Counter()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is ClusterLostError:  # it would not answer, and its workers end without us
            return
        running = [worker for worker, _ in self._running.values()]
        for worker in [*self._starting.values(), *self._idle, *running]:
            ray.kill(worker)

    def make(self, *stages: Sequence[Task]) -> Iterator[Word | None]:
        """Do all tasks, those of a stage once the stages before are done.

        Yields what the workers tell, and None at least once a second. A video may be heard of twice
        if its worker died. Raises RuntimeError if workers keep dying, and what a worker raised
        through a fault that is not a video's.
        """
        later = sum(map(len, stages))
        for stage in stages:
            later -= len(stage)
            waiting = deque(stage)
            while waiting or self._running:
                self._start_workers(len(waiting) + later)
                while waiting and self._idle:
                    worker, task = self._idle.pop(), waiting.popleft()
                    stream = worker.make.options(num_returns="streaming").remote(task)
                    self._running[stream] = (worker, task)
                ready, _ = ray.wait([*self._starting, *self._running], num_returns=1, timeout=1.0)
                for ref in ready:
                    if ref in self._starting:
                        self._welcome(ref)
                    else:
                        yield from self._hear(ref, waiting)
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
            raise cause_of(error) from None
        except RayError as error:  # Ray itself may have ended it, where memory was short
            self._failed_starts += 1
            if self._failed_starts >= MAX_STARTS:
                raise RuntimeError(f"workers die while they start: {error}") from error
        else:
            self._failed_starts, self.ready = 0, True
            self._idle.append(worker)

    def _hear(self, stream: Any, waiting: deque[Task]) -> Iterator[Word]:
        """Pass on a worker's next word; at its last, or at its death, take the task back."""
        worker, task = self._running[stream]
        try:
            yield ray.get(next(stream))
        except StopIteration:
            del self._running[stream]
            self._idle.append(worker)
        except RayTaskError as error:
            raise cause_of(error) from None
        except RayError as error:  # the worker, its node or what it had sent is gone
            del self._running[stream]
            self._deaths[type(task), task.name] += 1
            if self._deaths[type(task), task.name] >= MAX_DEATHS:
                what = "shard" if isinstance(task, PlannedShard) else "sentences"
                raise RuntimeError(
                    f"{MAX_DEATHS} workers died with {what} {task.name} in hand: {error}"
                ) from error
            if not self._is_done(task):
                waiting.append(task)


def cause_of(error: RayTaskError) -> Exception:
    """What an actor raised, with its trace; a fault of the user's is the line that it is."""
    if isinstance(error.cause, InputError):
        return error.cause
    cause: Exception = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
    return cause
