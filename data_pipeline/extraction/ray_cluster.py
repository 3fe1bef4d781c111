"""Does a Ray cluster answer, before the work and while it lasts?

Ray itself tries for a quarter of an hour to reach a cluster that is not there. Of one that is lost
in the middle of the work it tells its driver nothing, or ends it without a chance to tidy up.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from data_pipeline.errors import InputError

ARRIVAL = 20.0
"""Seconds that a cluster may take to answer at first: it may be starting at this moment."""

PATIENCE = 30.0
"""Seconds without an answer after which a cluster counts as lost; a head may be restarted."""

GRACE = 15.0
"""Seconds until this process ends by itself if a call into the lost cluster does not return. Ray
would end it 60 s after the loss, so this and PATIENCE are to be less."""

PERIOD = 2.0
"""Seconds between two looks at a cluster."""


class ClusterLostError(Exception):
    """The Ray cluster is gone; the message is one line for the user."""


def refusal(address: str) -> str | None:
    """Why nothing answers at `host:port`; None if something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def await_cluster(address: str) -> None:
    """Raise InputError if nothing answers at `host:port`."""
    began = time.monotonic()
    while cause := refusal(address):
        if time.monotonic() - began > ARRIVAL:
            raise InputError(
                f"RAY_ADDRESS: no Ray answers at {address} ({cause}); start it, correct the "
                "address, or unset RAY_ADDRESS to use a Ray of this machine's own"
            )
        time.sleep(min(1.0, ARRIVAL))


class Watch:
    """Looks from a thread of its own whether the head at `host:port` still answers."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._cause: str | None = None
        self._ended = threading.Event()

    def check(self) -> None:
        """Raise ClusterLostError if the cluster is lost."""
        if self._cause:
            raise ClusterLostError(
                f"the Ray cluster at {self._address} is lost ({self._cause}), and with it what "
                "was unfinished; once there is a cluster again, the same command goes on from "
                "what is finished"
            )

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        """Look for as long as this lasts."""
        threading.Thread(target=self._look, daemon=True).start()
        try:
            yield self
        finally:
            self._ended.set()

    def _look(self) -> None:
        # Counted from the first refusal: this process may itself have stood still for long.
        refused: float | None = None
        while not self._ended.wait(PERIOD):
            cause = refusal(self._address)
            if cause is None:
                refused = None
            elif refused is None:
                refused = time.monotonic()
            elif time.monotonic() - refused > PATIENCE:
                self._cause = cause
                if not self._ended.wait(GRACE):
                    self._end()
                return

    def _end(self) -> None:
        """End this process, which waits inside Ray for what will not come."""
        try:
            self.check()
        except ClusterLostError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
