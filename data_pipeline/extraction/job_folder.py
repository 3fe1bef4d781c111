"""What of a job is in its output folder already, and is the folder this job's?"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.extraction.plan import SENTENCES, PlannedSentences, PlannedShard, plan_sentences
from data_pipeline.extraction.pool import Task
from data_pipeline.extraction.sentences import folder_of
from data_pipeline.features.rewriting import finish_rewriting
from data_pipeline.features.shards import FORMAT, Provenance, read_json
from data_pipeline.features.writing import write_json
from data_pipeline.holding import hold
from data_pipeline.storage import Location, remove_temporary
from data_pipeline.untrusted import reading


class JobFolder:
    """The folder of a feature set while it is being made.

    With `retry_failed`, shards that lack failed videos count as missing.
    """

    def __init__(self, output: Location, retry_failed: bool) -> None:
        self._output, self._retry_failed = output, retry_failed

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a local folder, and remove what killed writers left in it.

        A second run at the same time would remove the first's files, so it is refused: InputError.
        In a store there is nothing to remove, and two runs would write the same bytes.
        """
        if self._output.local is None:
            if self._output.is_dir():
                finish_rewriting(self._output)
            yield
            return
        with hold(self._output.local, "job that writes into it"):
            self._remove_temporary()
            finish_rewriting(self._output)
            try:
                yield
            finally:  # the workers are gone by now
                self._remove_temporary()

    def _remove_temporary(self) -> None:
        for folder in (self._output, folder_of(self._output)):
            remove_temporary(folder)

    def claim(self, plan: dict[str, Any], provenance: Provenance) -> None:
        """Write down what the folder is for; raises InputError if that is something else."""
        path = self._output / "plan.json"
        if not path.is_file():
            write_json(path, plan | {"format": FORMAT, "provenance": asdict(provenance)})
            return
        found = read_json(path)
        with reading(path, "remove the folder"):
            made_by = Provenance.from_json(found["provenance"])
            differences = [
                f"{k}: {found.get(k)}, not {plan[k]}" for k in plan if found.get(k) != plan[k]
            ]
        differences += made_by.differences(provenance)
        if differences:
            raise InputError(
                f"{self._output}: holds the features of another job ({'; '.join(differences)}); "
                "choose another output folder or remove this one"
            )

    def missing(self, shards: Sequence[PlannedShard]) -> list[PlannedShard]:
        """Those shards that are not done, in order."""
        with ThreadPoolExecutor() as threads:  # hashing leaves the interpreter's lock
            done = threads.map(self.is_done, shards)
            return [shard for shard, is_done in zip(shards, done, strict=True) if not is_done]

    def missing_sentences(
        self, todo: Sequence[PlannedShard], shards: Sequence[PlannedShard]
    ) -> list[PlannedSentences]:
        """Shared sentences that the shards `todo` of a plan need and that are not encoded."""
        needed = {number // SENTENCES for shard in todo for number in shard.repeated.values()}
        planned = plan_sentences(shards)
        return [planned[n] for n in sorted(needed) if not self.is_done(planned[n])]

    def is_done(self, task: Task) -> bool:
        """Whether what a task makes is there: an index, and the file that it describes."""
        folder, suffix = self._output, "tar"
        if isinstance(task, PlannedSentences):
            folder, suffix = folder_of(self._output), "npy"
        try:
            index = read_json(folder / f"{task.name}.json")
            file = folder / f"{task.name}.{suffix}"
            lacks = index.get("failures") or index.get("left_out")
            if (self._retry_failed and lacks) or file.size() != index["bytes"]:
                return False
            # What a store shows was uploaded whole. Reading terabytes again through one machine
            # could take longer than the work that is left; `launch.shards verify` does it.
            return file.local is None or file.sha256() == index["sha256"]
        except InputError:  # absent or damaged
            return False
