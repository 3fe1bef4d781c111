"""Where do extraction's actors run: on a Ray of this process's own, or on a cluster?"""

import logging
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from data_pipeline.errors import InputError
from data_pipeline.extraction.ray_cluster import Watch, await_cluster

OBJECT_STORE_BYTES = 128 * 2**20
"""Shared memory of a local Ray for each processor: a decoder's pieces on their way, twice over."""

LONGEST_FOLDER = 36
"""Bytes of a folder whose path leaves enough for the names of Ray's sockets."""

STARTS = 4
"""Times to try: Ray takes itself for failed when it has not started after half a minute."""

WORKER_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default glibc returns an encoder's temporaries to the system after every layer: a quarter
    # of the processor time went into faulting the same pages in again.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    # Ray gives its workers the lowest priority, and anything else that runs starves them.
    "RAY_worker_niceness": "0",
    # A crowded machine answers late: a local Ray is not to take itself for dead because of it.
    "RAY_health_check_failure_threshold": "100",
}
"""What the processes of a local Ray find in their environment, unless it was set already."""

LOG = logging.getLogger(__name__)


@contextmanager
def ray_session(cpus: int | None = None) -> Iterator[Watch]:
    """Connect to the cluster that RAY_ADDRESS names, else start Ray here for as long as this lasts.

    Yields the watch over it, which is to be asked now and then. Raises InputError if there is no
    cluster where RAY_ADDRESS says. `cpus` limits a local Ray (default: all cores). On a cluster the
    packages must be installed, or come with the job (`ray job submit --working-dir`). Nothing to do
    if Ray is running already.
    """
    if ray.is_initialized():
        with _watch() as watch:
            yield watch
        return
    terminate = signal.getsignal(signal.SIGTERM)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # One failure is told once: what other actors die of in the meantime adds nothing.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    with ExitStack() as stack:
        if address := os.environ.get("RAY_ADDRESS"):
            _connect(address)
        else:
            # Workers of a local Ray inherit the environment: so they find a checkout's packages.
            root = str(Path(__file__).resolve().parents[2])
            known = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = os.pathsep.join([root, known] if known else [root])
            for name, value in WORKER_ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            _start(cpus, stack.enter_context(_folder()))
        # Ray's own handler ends its processes under a driver that still talks to them, which
        # aborts; a job that unwinds ends them itself, below.
        _handle(terminate)
        with _watch() as watch:
            try:
                yield watch
            finally:
                ray.shutdown()  # watched too: it may wait for what is lost
                _handle(terminate)  # Ray leaves none


def _handle(terminate: Any) -> None:
    """Have SIGTERM handled as it was, where that can be said."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def _watch() -> AbstractContextManager[Watch]:
    return Watch(ray.get_runtime_context().gcs_address).watching()


def _connect(address: str) -> None:
    """Join a cluster, or raise InputError before long."""
    if re.fullmatch(r"[^/]+:\d+", address):  # else a word or a URL, which Ray looks up
        await_cluster(address)
    # What answers may be no Ray, or want a token that we do not have. Ray would try 20 times, for
    # 40 s each; by this name it means the number of tries, too.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        cause = " ".join(str(error).split())
        raise InputError(f"RAY_ADDRESS: cannot join the Ray at {address}: {cause}") from error


@contextmanager
def _folder() -> Iterator[str | None]:
    """Where a local Ray may write: None for where it would, a short name where that is too long.

    Its sockets lie there, and a socket's path has 107 bytes; temporary folders of schedulers and of
    CI leave too few of them. Raises InputError if RAY_TMPDIR itself is such a folder.
    """
    named = os.environ.get("RAY_TMPDIR")
    if len(os.fsencode(named or os.environ.get("TMPDIR", "/tmp"))) <= LONGEST_FOLDER:
        yield None
    elif named:
        raise InputError(
            f"RAY_TMPDIR={named}: too long a path for the sockets of Ray; name a folder of at most "
            f"{LONGEST_FOLDER} letters"
        )
    else:
        try:
            folder = tempfile.TemporaryDirectory(
                prefix="sdst-ray-", dir="/tmp", ignore_cleanup_errors=True
            )
        except OSError as error:
            raise InputError(
                f"TMPDIR: too long a path for the sockets of Ray, and /tmp cannot be used "
                f"({error.strerror}); set RAY_TMPDIR to a path of at most {LONGEST_FOLDER} letters"
            ) from error
        with folder as name:
            yield name


def _start(cpus: int | None, folder: str | None) -> None:
    """Start a Ray of our own on this machine, which writes into `folder`."""
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                address="local",  # and not some other program's Ray that happens to run here
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES * (cpus or os.cpu_count() or 1),
                _temp_dir=folder,
            )
            return
        except OSError as error:
            raise InputError(
                f"Ray cannot start here: {' '.join(str(error).split())}; RAY_TMPDIR names the "
                "folder that it writes into"
            ) from error
        except Exception as error:  # Ray has no class of its own for this
            if "timed out during startup" not in str(error) or attempt == STARTS:
                raise
            LOG.warning("Ray did not start within its 30 s: the machine is crowded; once more")
            ray.shutdown()
