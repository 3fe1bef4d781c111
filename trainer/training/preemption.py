"""How do all ranks stop at the same step when one of them is told to?

A scheduler that takes a machine away sends SIGTERM to some or all processes. Each rank notes the
signal; before every batch the ranks tell each other, and leave the loop together. The answer is
asked for before the step and looked at after it, so that nobody waits for it.
"""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from multiprocessing import forkserver, util
from types import FrameType, TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator

from data_pipeline.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, InputError

STATUS = {signal.SIGTERM: EXIT_PREEMPTED, signal.SIGINT: EXIT_INTERRUPTED}

LONGEST_FOLDER = 70
"""Bytes of a temporary folder whose path leaves enough for the names of workers' sockets."""

Item = TypeVar("Item")


def keep_sockets_short() -> None:
    """Have the workers' sockets in a folder whose path leaves enough of the 107 bytes for them.

    Temporary folders of schedulers and of CI may not. Raises InputError where there is no other.
    """
    named = tempfile.gettempdir()
    if len(os.fsencode(named)) <= LONGEST_FOLDER:
        return
    try:
        tempfile.tempdir = "/tmp"
        util.get_temp_dir()  # made now, and remembered; it goes with this process
    except OSError as error:
        raise InputError(
            f"TMPDIR={named}: too long a path for the sockets of the loader's workers, and /tmp "
            f"cannot be used ({error.strerror}); set TMPDIR to a shorter one, or data.workers to 0"
        ) from error
    finally:
        tempfile.tempdir = named


class Stopped(Exception):
    """All ranks were asked to stop and have done the same steps. `status` is what to exit with."""

    def __init__(self, number: int) -> None:
        self.status = STATUS[signal.Signals(number)]
        super().__init__(signal.Signals(number).name)


class StopSignals:
    """Notes SIGTERM and SIGINT while it is entered. A second SIGINT interrupts at once.

    From the first signal on, `grace` seconds remain to reach the end of a step and save; then the
    process leaves without. Several ranks make one, together; they ask each other from host to
    host, so that no answer waits for what a device has yet to do, and wait for one of them for
    `timeout` seconds.
    """

    def __init__(
        self, accelerator: Accelerator, grace: float, workers: bool, timeout: float = 600.0
    ) -> None:
        self._accelerator, self._grace, self._workers = accelerator, grace, workers
        self._received = 0
        self._hosts: dist.ProcessGroup | None = None
        if accelerator.num_processes > 1:
            self._hosts = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in STATUS}
        if self._workers:
            # A signal to the whole process group must leave the loader its workers, and the server
            # that they are forked from: what is ignored when a program starts, it ignores.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            keep_sockets_short()
            forkserver.ensure_running()
        for number in STATUS:
            signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._timer:
            self._timer.cancel()

    def release(self) -> None:
        """Let go of the group of hosts before groups end, as `Learner.release` does."""
        self._hosts = None

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, as many on every rank; raises Stopped on all ranks after the same one."""
        for item in items:
            answer, pending = self._ask()
            yield item
            if pending:
                pending.wait()
            if number := int(answer):
                raise Stopped(number)

    def _ask(self) -> tuple[torch.Tensor | int, dist.Work | None]:
        if self._hosts is None:
            return self._received, None
        answer = torch.tensor(self._received)
        return answer, dist.all_reduce(answer, dist.ReduceOp.MAX, self._hosts, async_op=True)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._received:
            raise KeyboardInterrupt
        if self._timer is None:
            self._timer = threading.Timer(self._grace, self._leave, [number])
            self._timer.daemon = True
            self._timer.start()
        self._received = self._received or number

    def _leave(self, number: int) -> None:
        print(
            f"rank {self._accelerator.process_index}: no checkpoint within {self._grace:g} s of "
            f"{signal.Signals(number).name}; the last one written is where the run goes on",
            file=sys.stderr,
            flush=True,
        )
        os._exit(STATUS[signal.Signals(number)])
