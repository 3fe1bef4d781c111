"""How does a plan of shards become a feature set, whatever fails on the way?

The plan of shards follows from the inputs alone. One task makes one shard on one of a fixed number
of actors. A shard is done if its index is there and agrees with its tar; an actor that dies costs
its shard's work and nothing else; a video that cannot be read is recorded and the rest goes on. So
the same inputs give the same bytes, and running again makes what is missing.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from data_pipeline.config import JobConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.account import Account
from data_pipeline.extraction.job_folder import JobFolder
from data_pipeline.extraction.plan import AnnotatedPlan, Plan, PlannedShard
from data_pipeline.extraction.pool import Seconds, SentencesDone, VideoDone, WorkerPool, Workers
from data_pipeline.extraction.ray_cluster import Watch
from data_pipeline.extraction.ray_session import ray_session
from data_pipeline.features.shards import Provenance, write_index
from data_pipeline.features.writing import write_json
from data_pipeline.storage import Location, Source


@dataclass
class Progress:
    """How far this run is. `seconds` since a worker was ready, `busy` summed over workers."""

    videos: int
    """Videos to do in this run, as far as they are known."""
    open_ended: bool = False
    """Whether tars are among the work, which tell how many videos they hold at their ends."""
    done: int = 0
    clips: int = 0
    failed: int = 0
    sentences: int = 0
    """Sentences to encode ahead of the shards that share them ..."""
    sentences_done: int = 0
    workers: int = 0
    start_seconds: float = 0.0
    """Until a worker was ready: Ray, its processes, their imports and the encoders' weights."""
    seconds: float = 0.0
    busy: Seconds = field(default_factory=Seconds)

    def add(self, video: VideoDone, before: VideoDone | None) -> None:
        """Count a video; `before` is what was heard of it earlier, from a worker that died."""
        self.busy += video.seconds
        for heard, sign in ((video, 1), (before, -1)):
            if heard is not None:
                self.done += sign
                self.clips += sign * heard.clips
                self.failed += sign * (heard.failure is not None)

    @property
    def seconds_left(self) -> float:
        """Expected from the rate so far, once a video is done."""
        return self.seconds / self.done * (self.videos - self.done)

    @property
    def utilisation(self) -> float:
        """Part of the workers' time that the encoders run."""
        return self.busy.encode / max(1e-9, self.seconds * self.workers)


@dataclass(frozen=True)
class Summary:
    """What a run of the job found, did and left: the content of summary.json."""

    split: str
    videos: int
    """Videos of the plan, of which ..."""
    stored: int
    """... are in shards."""
    failures: dict[str, int]
    """The others, by class of cause."""
    left_out: int
    """Queries of stored videos that are in no shard; failures.jsonl has them too."""
    queries: int
    clips: int
    bytes: int
    shards: int
    shards_made: int
    """By this run; the others were there."""
    sentences_cut: int
    """Stored sentences that the encoder did not read to their end; unread.jsonl names them."""
    lengths_differ: int
    """Stored videos with over one clip more or less than the annotations' duration asks for ..."""
    lengths_named: tuple[str, ...]
    """... the first of them; lengths.jsonl has all."""
    seconds: float
    start_seconds: float
    """Until a worker was ready ..."""
    work_seconds: float
    """... and from then to the last commit."""
    workers: int
    videos_per_second: float
    clips_per_second: float
    decode_seconds: float
    encode_seconds: float
    write_seconds: float
    encoder_utilisation: float
    failed: bool
    """More videos failed than the threshold allows."""
    counted: dict[str, int] = field(default_factory=dict)
    """What was done to the stored videos that their users should know of, and how often."""
    warned: int = 0
    """Warnings of stored videos ..."""
    warnings: tuple[str, ...] = ()
    """... the first of them; warnings.jsonl has all."""
    noted: dict[str, list[str]] = field(default_factory=dict)
    """What else is to be told of the videos, and the names of those that it is true of."""


def make_shards(
    config: JobConfig,
    provenance: Provenance,
    source: Source,
    workers: Callable[[], Workers],
    report: Callable[[Progress], None],
    joint_width: int | None = None,
    plan: Plan | None = None,
) -> Summary:
    """Make what is missing of a feature set; `report` is called about once a second.

    `source` is where the videos come from, for messages, `joint_width` that of the vectors in a
    space that the encoders share, `plan` what goes where, by default by the annotations. `workers`
    is asked once Ray is running and there is something to do. Raises InputError for bad inputs and
    for an output folder that holds another set, ClusterLostError if Ray is gone before the end.
    """
    began = time.perf_counter()
    plan = plan or AnnotatedPlan(config, provenance.clip_length)
    output = Location(config.output)
    split = config.split or output.name
    identity = {"split": split} | plan.identity
    if joint_width is not None:
        identity["joint"] = joint_width
    folder = JobFolder(output, config.retry_failed)
    with folder.held():
        folder.claim(identity, provenance)
        shards = plan.shards()
        todo = folder.missing(shards)
        progress = Progress(
            videos=sum(len(shard.videos) for shard in todo),
            open_ended=any(shard.tar is not None for shard in todo),
        )
        if todo:
            start = time.perf_counter()
            with ray_session(config.workers) as watch:
                _run(folder, start, workers(), watch, todo, shards, progress, report)
        with Account(output, provenance.clip_length) as account:
            for shard in shards:
                account.take(shard)
            totals = account.tally.totals
            account.write_failures()
            if not totals["videos"]:
                first = f"; the first: {account.first_cause}" if account.first_cause else ""
                raise InputError(
                    f"{source}: none of the videos can be used{first or ': there are none'}"
                )
            account.write_lists()
        failed = account.failures.total()
        rows = plan.rows(totals["videos"] + failed, totals["queries"])
        account.tally.write(output, split, provenance, rows)
        write_index(output)
        summary = Summary(
            split=split,
            videos=rows["videos"],
            stored=totals["videos"],
            failures=dict(account.failures),
            left_out=account.left_out,
            queries=totals["queries"],
            clips=totals["clips"],
            bytes=totals["bytes"],
            shards=len(shards),
            shards_made=len(todo),
            sentences_cut=account.unread.count,
            counted=dict(sorted(account.counted.items())),
            lengths_differ=account.lengths.count,
            lengths_named=account.lengths_named,
            seconds=time.perf_counter() - began,
            start_seconds=progress.start_seconds,
            work_seconds=progress.seconds,
            workers=progress.workers,
            videos_per_second=progress.done / max(1e-9, progress.seconds),
            clips_per_second=progress.clips / max(1e-9, progress.seconds),
            decode_seconds=progress.busy.decode,
            encode_seconds=progress.busy.encode,
            write_seconds=progress.busy.write,
            encoder_utilisation=progress.utilisation,
            failed=failed > config.threshold * rows["videos"],
            warned=account.warnings.count,
            warnings=tuple(account.first_warnings),
            noted=plan.noted(),
        )
        write_json(output / "summary.json", dataclasses.asdict(summary))
    return summary


def _run(
    folder: JobFolder,
    start: float,
    workers: Workers,
    watch: Watch,
    todo: Sequence[PlannedShard],
    shards: Sequence[PlannedShard],
    progress: Progress,
    report: Callable[[Progress], None],
) -> None:
    """Make shards on the running Ray, which began to start at `start`."""
    workers = dataclasses.replace(workers, size=min(workers.size, len(todo)))
    ahead = folder.missing_sentences(todo, shards) if workers.encode_text else []
    progress.workers = workers.size
    progress.sentences = sum(len(planned.sentences) for planned in ahead)
    began = reported = time.perf_counter()
    known: dict[str, VideoDone] = {}  # a video is heard of again if its worker died
    with WorkerPool(workers, folder.is_done) as pool:
        for heard in pool.make(ahead, todo):
            watch.check()
            now = time.perf_counter()
            if not pool.ready:
                began, progress.start_seconds = now, now - start
            progress.seconds = now - began
            if isinstance(heard, VideoDone):
                progress.add(heard, known.get(heard.vid))
                known[heard.vid] = heard
            elif isinstance(heard, SentencesDone):
                progress.busy += heard.seconds
                progress.sentences_done += heard.count
            elif heard is not None:
                progress.busy += heard
            if now - reported > 1:
                report(progress)
                reported = now
    progress.videos, progress.open_ended = progress.done, False
    report(progress)
