"""Workers that die before they are ready: replaced, and for how long?"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

from data_pipeline.errors import InputError
from data_pipeline.extraction import pool
from data_pipeline.extraction.plan import PlannedSentences
from data_pipeline.extraction.pool import MAX_STARTS, Seconds, ShardWorker, WorkerPool, Workers

TASK = PlannedSentences("sentences", ("a sentence",))


def start_with(patch: pytest.MonkeyPatch, deaths: Sequence[RayError]) -> WorkerPool:
    """A pool whose workers die in turn, before one does everything at once."""
    left = list(deaths)

    def get(word: Any) -> Any:
        if word == "answer" and left:
            raise left.pop(0)
        return word

    make = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda _: iter([Seconds()])))
    load = SimpleNamespace(remote=lambda: "answer")
    actor = SimpleNamespace(remote=lambda: SimpleNamespace(load=load, make=make))
    replaced = SimpleNamespace(
        remote=lambda **_: lambda _: actor,
        wait=lambda refs, **_: ([refs[0]], refs[1:]),
        get=get,
        kill=lambda _: None,
    )
    patch.setattr(pool, "ray", replaced)
    return WorkerPool(Workers(ShardWorker, (), 1), lambda _: False)


@pytest.mark.parametrize("death", [ActorDiedError(), OutOfMemoryError("crowded")])
def test_a_worker_that_dies_before_it_is_ready_is_replaced(
    death: RayError, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_with(monkeypatch, [death] * (MAX_STARTS - 1)) as started:
        assert [word for word in started.make([TASK]) if word] == [Seconds()]


def test_workers_that_cannot_start_end_the_job_with_their_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        start_with(monkeypatch, [OutOfMemoryError("crowded")] * MAX_STARTS) as started,
        pytest.raises(RuntimeError, match=r"workers die while they start: .*crowded"),
    ):
        list(started.make([TASK]))


def test_a_fault_of_the_users_that_a_worker_finds_comes_out_as_its_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault = InputError("clips.tar: cannot be written: No space left on device; make room")
    told = RayTaskError("make", "Traceback (most recent call last):\n  many lines", fault)
    with (
        start_with(monkeypatch, [told]) as started,
        pytest.raises(InputError) as caught,
    ):
        list(started.make([TASK]))
    assert str(caught.value) == str(fault)


def test_a_fault_of_ours_in_a_worker_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    told = RayTaskError("make", "Traceback (most recent call last):\n  many lines", KeyError("x"))
    with start_with(monkeypatch, [told]) as started, pytest.raises(KeyError) as caught:
        list(started.make([TASK]))
    assert "many lines" in str(caught.value)
