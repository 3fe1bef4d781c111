"""Why can MLflow not be used: is it away for a while, or what mends it?"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from data_pipeline.errors import InputError
from data_pipeline.output import check_file
from trainer.tracking.tracking import redact, store_uri

LASTING = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT),
)
SHOWN = 300  # letters of what MLflow says
CREDENTIALS = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, as its "
    "owner says"
)
PLACE = "set MLFLOW_TRACKING_URI to a place that may be written to, or to a server"
ADDRESS = "does MLFLOW_TRACKING_URI name an MLflow server?"


class Refused(Exception):
    """The store is there and will not take something; the message says what mends it."""

    @property
    def lasts(self) -> bool:
        """Whether waiting would not mend it."""
        return True


class FilesRefused(Refused):
    """It took the records, and will not take files."""

    @property
    def lasts(self) -> bool:
        cause = self.__cause__
        return isinstance(cause, ImportError) or getattr(cause, "errno", None) in LASTING


@dataclass(frozen=True)
class Fault:
    """One line for a failed call; `outage` where waiting may mend it, and nobody can do better."""

    line: str
    outage: bool


def fault_of(error: Exception) -> Fault:
    """What a call of MLflow's that raised `error` means for the store in use."""
    from mlflow.exceptions import RestException

    uri = redact(store_uri())
    if isinstance(error, Refused):
        return Fault(redact(f"MLflow at {uri}: {error}"), outage=not error.lasts)
    if isinstance(error, InputError):  # a file of the run's own
        return Fault(str(error), outage=True)
    if isinstance(error, OSError) and error.filename:
        mend = "it needs another place or permission"
        place = redact(str(error.filename))
        line = f"MLflow is not up to date: {place}: {error.strerror}; {mend}"
        return Fault(line, outage=error.errno not in LASTING)
    said = " ".join(redact(str(error)).split())[:SHOWN] or type(error).__name__
    if "readonly database" in said:
        return Fault(f"MLflow at {uri} cannot be written ({said}); {PLACE}", outage=False)
    if "must be in the 'active' state" in said:
        return Fault(f"MLflow at {uri}: {said} Restore it there", outage=False)
    code = re.search(r"error code (\d+) ", said)
    if not isinstance(error, RestException) and (proxy := proxy_of(store_uri())):
        host = urlsplit(store_uri()).hostname
        return Fault(
            f"MLflow at {uri} cannot be reached through the proxy {redact(proxy)} ({said}); if "
            f"none is to stand between, set no_proxy={host}",
            outage=True,
        )
    if code and code[1] in ("401", "403"):
        return Fault(f"MLflow at {uri} does not let us in ({said}); {CREDENTIALS}", outage=False)
    if code and code[1] in ("404", "405"):
        return Fault(f"MLflow at {uri} does not answer as one ({said}); {ADDRESS}", outage=False)
    return Fault(f"MLflow at {uri} cannot be used now: {said}", outage=True)


def proxy_of(uri: str) -> str | None:
    """The proxy that the environment puts before a server, None where there is none."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    known = getproxies()
    proxy = known.get(parts.scheme) or known.get("all")
    return None if proxy is None or proxy_bypass(parts.hostname) else proxy


def check_store() -> None:
    """Raise Refused for a file of the store that cannot be: MLflow would try for minutes."""
    uri = store_uri()
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    if uri.startswith("sqlite:///") and path not in ("", ":memory:"):
        try:
            check_file(Path(path))
        except InputError as error:
            raise Refused(f"{error}; {PLACE}") from error


def check_active(experiment: Any) -> None:
    """Raise Refused for an experiment that was deleted, and still has its name."""
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise Refused(
            f"the experiment {experiment.name!r} was deleted; restore it with: mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}, or name another one"
        )


@contextmanager
def told() -> Iterator[None]:
    """What MLflow raises inside becomes the one line of an InputError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except InputError:
        raise
    except (MlflowException, SQLAlchemyError, Refused, OSError) as error:  # requests' are OSErrors
        raise InputError(fault_of(error).line) from error
