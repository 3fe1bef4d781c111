"""Which runs of an MLflow store are meant, and where are their files?"""

import logging
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

from data_pipeline.errors import InputError
from trainer.comparison.runs import FILES
from trainer.tracking.delivery import moved_from, safe
from trainer.tracking.outages import check_active, check_store, told
from trainer.tracking.tracking import redact, store_uri

LOG = logging.getLogger(__name__)

Answer = TypeVar("Answer")

RUN_ID = re.compile(r"[0-9a-f]{32}")
DOWNLOADS = 16  # files fetched from a server at once


class Store:
    """The MLflow store in use, opened when it is first asked.

    Files of runs on a server are copied into a folder that goes with this object.
    """

    def __init__(self) -> None:
        self._copies: tempfile.TemporaryDirectory[str] | None = None

    @cached_property
    def _client(self) -> Any:
        import mlflow

        logging.getLogger("alembic").setLevel(logging.WARNING)
        with told():
            check_store()
        return mlflow.MlflowClient(store_uri())

    def find(self, name: str) -> Any:
        """The run with this id or name.

        Raises InputError for none, or several of one name.
        """
        if RUN_ID.fullmatch(name):
            return self._ask(lambda: self._client.get_run(name))
        escaped = name.replace("'", "\\'")
        found = self._search(f"attributes.run_name = '{escaped}'", None)
        if not found:
            raise InputError(
                f"{name}: neither a run's folder nor a run of {redact(store_uri())}; "
                "set MLFLOW_TRACKING_URI to the store that has it"
            )
        if len(found) > 1:
            ids = ", ".join(run.info.run_id for run in found)
            raise InputError(f"{name}: {len(found)} runs have this name; give one of {ids}")
        return found[0]

    def of_experiment(self, name: str, filter_string: str = "") -> list[Any]:
        """All runs of an experiment that fit MLflow's filter, oldest first."""
        experiment = self._ask(lambda: self._client.get_experiment_by_name(name))
        if experiment is None:
            known = self._ask(self._client.search_experiments)
            names = ", ".join(repr(one.name) for one in known)
            raise InputError(f"no experiment {name!r} in {redact(store_uri())}; it has {names}")
        return self._search(filter_string, experiment.experiment_id)

    def create(self, experiment: str, name: str, parameters: Mapping[str, str]) -> str:
        """The id of a new run in an experiment, which is made if it is not there."""

        def create() -> str:
            from mlflow.entities import Param

            found = self._client.get_experiment_by_name(experiment)
            check_active(found)
            owner = found.experiment_id if found else self._client.create_experiment(experiment)
            run_id = str(self._client.create_run(owner, run_name=name).info.run_id)
            given = [Param(safe(key), value[:500]) for key, value in parameters.items()]
            self._client.log_batch(run_id, params=given)
            return run_id

        return str(self._ask(create))

    def describe(self, run_id: str, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Add tags and figures to a run."""
        from mlflow.entities import Metric, RunTag

        now = int(1000 * time.time())
        said = [RunTag(key, value) for key, value in tags.items()]
        measured = [Metric(safe(key), value, now, 0) for key, value in metrics.items()]
        self._ask(lambda: self._client.log_batch(run_id, metrics=measured, tags=said))

    def end(self, run_id: str, status: str) -> None:
        """Say that a run is FINISHED or FAILED."""
        self._ask(lambda: self._client.set_terminated(run_id, status))

    def folders(self, runs: Sequence[Any]) -> list[Path]:
        """The folder of each run's kept files: the store's own where it is on this machine."""
        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory(prefix="sdst-runs-")
        copies = Path(self._copies.name)
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            return list(pool.map(lambda run: self._folder(run, copies), runs))

    def log(self, run: Any, paths: Sequence[Path], place: str) -> None:
        """Keep files with a run, in its artifact folder `place`."""
        for path in paths:
            self._ask(partial(self._client.log_artifact, run.info.run_id, str(path), place))

    def _folder(self, run: Any, copies: Path) -> Path:
        place = urlparse(run.info.artifact_uri)
        if place.scheme in ("", "file"):
            return self._beside(run, Path(unquote(place.path)))
        run_id = run.info.run_id
        folder: Path = copies / run_id
        folder.mkdir(exist_ok=True)
        kept = {item.path for item in self._ask(lambda: self._client.list_artifacts(run_id))}
        for name in kept.intersection(FILES):
            self._ask(partial(self._client.download_artifacts, run_id, name, str(folder)))
        return folder

    def _beside(self, run: Any, kept: Path) -> Path:
        """The folder `kept` of a run's files, or, where the store was moved, that beside it."""
        if kept.is_dir():
            return kept
        store, database = store_uri(), urlparse(store_uri()).path
        if store.startswith("sqlite:") and database:
            here = Path(unquote(database.removeprefix("/"))).absolute().parent
            moved = here.joinpath(*kept.parts[-4:])  # mlruns/<experiment>/<run>/artifacts
            if moved.is_dir():
                LOG.warning("%s: was moved; MLflow's files are taken from %s", kept, moved)
                return moved
        if old := moved_from(run.info.artifact_uri):
            raise InputError(
                f"{run.info.run_name}: MLflow's files were in {old}, which is not there: was the "
                "folder of mlflow.db moved? Move it back, or name the run's own folder"
            )
        return kept  # of a run that kept none

    def _search(self, filter_string: str, experiment: str | None) -> list[Any]:
        def search() -> list[Any]:
            from mlflow.store.entities import PagedList

            ids = (
                [experiment]
                if experiment
                else [one.experiment_id for one in self._client.search_experiments()]
            )
            found: list[Any] = []
            token = None
            while True:
                page: PagedList[Any] = self._client.search_runs(
                    ids, filter_string, order_by=["attributes.start_time ASC"], page_token=token
                )
                found += page
                token = page.token
                if not token:
                    return found

        return self._ask(search)

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        with told():
            return question()
