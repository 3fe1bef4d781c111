"""What is told of all shards of a set at its end, with one of them in memory at a time?

failures.jsonl    every video, and query, that is in no shard, in order of the plan
lengths.jsonl     stored videos whose length is not the annotated one
warnings.jsonl    what is odd about stored videos
unread.jsonl      sentences that the encoder did not read to their end
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from data_pipeline.extraction.plan import PlannedShard
from data_pipeline.features.opening import REMAKE
from data_pipeline.features.shards import read_json
from data_pipeline.features.writing import Lines, Tally
from data_pipeline.storage import Location
from data_pipeline.untrusted import reading
from data_pipeline.video.video import clip_count

NAMED = 3
"""Videos that a message names."""


class Account:
    """Takes in the indexes of shards, one after the other, then writes the lists about them.

    Used in a `with` statement, it removes what of the lists was not written to its end. What it
    keeps are counts, and the ids of videos that failed.
    """

    def __init__(self, output: Location, clip_length: float) -> None:
        self._output, self._clip_length = output, clip_length
        self.tally = Tally()
        self.counted: Counter[str] = Counter()
        """What was done to the stored videos, and how often."""
        self.failures: Counter[str] = Counter()
        """Videos that are in no shard, by class of cause; known once the lists are written."""
        self.first_cause: str | None = None
        self.left_out = 0
        """Queries of stored videos that are in no shard."""
        self.lengths, self.warnings, self.unread = (
            Lines(output / f"{name}.jsonl") for name in ("lengths", "warnings", "unread")
        )
        self.first_warnings: list[str] = []
        self._first_lengths: list[dict[str, Any]] = []
        self._lacking: list[str] = []  # shards of which something is to be told as failed
        self._failed: set[str] = set()
        self._overcome: set[str] = set()
        self._open = ExitStack()

    def __enter__(self) -> "Account":
        for lines in (self.lengths, self.warnings, self.unread):
            self._open.enter_context(lines)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def take(self, shard: PlannedShard) -> None:
        """Read the next shard's index; InputError for one that is damaged."""
        path = self._output / f"{shard.name}.json"
        index = read_json(path)
        with reading(path, REMAKE):
            self.tally.take(index)
            self.counted.update(index.get("counted", {}))
            for qid, tokens in index.get("unread", ()):
                self.unread.add({"qid": qid, "tokens": tokens})
            for each in index.get("warnings", ()):
                self.warnings.add(each)
                if len(self.first_warnings) < NAMED:
                    self.first_warnings.append(each["warning"])
            for row in _lengths_differ(shard, index, self._clip_length):
                self.lengths.add(row)
                if len(self._first_lengths) < NAMED:
                    self._first_lengths.append(row)
            left_out = index.get("left_out", ())
            self.left_out += len(left_out)
            if index["failures"] or left_out:
                self._lacking.append(shard.name)
            self._failed.update(each["vid"] for each in index["failures"])
            if self._failed:
                stored = (sample["vid"] for sample in index["samples"])
                self._overcome.update(vid for vid in stored if vid in self._failed)

    def write_failures(self) -> None:
        """Write failures.jsonl, without videos that a later shard holds, and count them."""
        with Lines(self._output / "failures.jsonl") as lines:
            for name in self._lacking:
                path = self._output / f"{name}.json"
                index = read_json(path)
                with reading(path, REMAKE):
                    for each in index["failures"]:
                        if each["vid"] not in self._overcome:
                            lines.add(each)
                            self.failures[each["kind"]] += 1
                            self.first_cause = self.first_cause or each["cause"]
                    for each in index.get("left_out", ()):
                        lines.add(each)
            lines.commit(always=True)

    def write_lists(self) -> None:
        """Write the other lists, each if there is something to tell, or was before."""
        for lines in (self.lengths, self.warnings, self.unread):
            lines.commit()

    @property
    def lengths_named(self) -> tuple[str, ...]:
        """The first videos of other lengths, for a message."""
        named = [
            f"{row['vid']} ({row['annotated']:g} s annotated, about {row['stored']:g} s found)"
            for row in self._first_lengths
        ]
        return (*named, "…") if self.lengths.count > NAMED else tuple(named)


def _lengths_differ(
    shard: PlannedShard, index: dict[str, Any], clip_length: float
) -> Iterator[dict[str, Any]]:
    """Rows {"vid", "annotated", "stored"}: seconds by the annotations, and in stored clips."""
    annotated = {
        video.vid: video.annotations[0].duration for video in shard.videos if video.annotations
    }
    for sample in index["samples"]:
        vid, clips = sample["vid"], sample["clips"]
        if vid in annotated and abs(clips - clip_count(annotated[vid], clip_length)) > 1:
            yield {"vid": vid, "annotated": annotated[vid], "stored": clips * clip_length}
