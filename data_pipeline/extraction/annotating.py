"""How are sentences joined to videos that are stored already, without decoding them again?

Each shard that a row speaks of is written again, in its place, with the features of its new
sentences. A row that is stored as it is costs nothing, one whose qid is stored replaces that one:
so the same command goes on where it was stopped.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import ClipFeatures, FeatureEncoder, SentenceFeatures
from data_pipeline.extraction.job_folder import JobFolder
from data_pipeline.extraction.sentences import make_sample
from data_pipeline.features.opening import REMAKE
from data_pipeline.features.rewriting import read_samples, rewrite_shard
from data_pipeline.features.samples import Sample
from data_pipeline.features.shards import (
    Provenance,
    known_as,
    names_of,
    read_json,
    write_index,
)
from data_pipeline.features.writing import Lines, Tally
from data_pipeline.storage import Location, Source
from data_pipeline.untrusted import reading, shown


@dataclass(frozen=True)
class Joined:
    """What became of the rows: how many were joined or replaced, stood there as they are, speak of
    videos that are not stored (`missing` names those), or were not read to their end."""

    joined: int
    unchanged: int
    missing: list[str]
    unread: int
    shards: int


def annotate(
    folder: Source,
    annotations: str | Path,
    encoder: Callable[[Provenance], FeatureEncoder],
    report: Callable[[str], None] = lambda _: None,
) -> Joined:
    """Join rows to the videos of a feature set; `report` is told of each shard that is written.

    `encoder` gives the encoders of a provenance. A row may leave out the suffix of a video that is
    known by its whole name. Raises InputError for bad rows, for rows that speak of no stored video,
    and for encoders that are not those of the set; nothing is written then.
    """
    output = Location(folder)
    rows = read_annotations(annotations)
    with JobFolder(output, retry_failed=False).held():
        path = output / "manifest.json"
        manifest = read_json(path)
        with reading(path):
            provenance = Provenance.from_json(manifest["provenance"])
            names = [shard["name"] for shard in manifest["shards"]]
            split, made_of = manifest["split"], manifest["annotations"]
        ids, home, first = _stored(output, names, {row.vid for row in rows})
        wanted: dict[str, dict[str, list[Annotation]]] = defaultdict(lambda: defaultdict(list))
        missing = []
        for row in rows:
            vid = ids.get(row.vid)
            if vid is None:
                missing.append(row.vid)
            else:
                wanted[home[vid]][vid].append(replace(row, vid=vid))
        if not wanted:
            raise InputError(
                f"{annotations}: speaks of no video of {output}; the first is "
                f"{shown(rows[0].vid)}, and one that is stored {shown(first)}"
            )
        encoders = encoder(provenance)
        _check_text(output, provenance, encoders.provenance)
        joiner = _Joiner(encoders, provenance.clip_length, output, report)
        for name in sorted(wanted):
            joiner.join(read_json(output / f"{name}.json"), wanted[name])
        tally = Tally()
        with Lines(output / "unread.jsonl") as unread:
            for name in names:
                index = read_json(output / f"{name}.json")
                tally.take(index)
                for qid, tokens in index.get("unread", ()):
                    unread.add({"qid": qid, "tokens": tokens})
            made_of = made_of | {"queries": tally.totals["queries"]}
            tally.write(output, split, provenance, made_of)
            write_index(output)
            unread.commit()
    return Joined(joiner.joined, joiner.unchanged, missing, joiner.cut, joiner.shards)


def _stored(
    output: Location, shards: Sequence[str], names: Set[str]
) -> tuple[dict[str, str], dict[str, str], str | None]:
    """Of what rows call videos: the ids of those that are stored, and the shard of each id; and
    the first id of all. One shard is in memory at a time."""
    home: dict[str, str] = {}
    first: str | None = None

    def vids() -> Iterator[str]:
        nonlocal first
        for shard in shards:
            path = output / f"{shard}.json"
            index = read_json(path)
            with reading(path, REMAKE):
                for vid in [sample["vid"] for sample in index["samples"]]:
                    first = first or vid
                    if not names.isdisjoint(names_of(vid)):
                        home[vid] = shard
                    yield vid

    return known_as(vids(), names), home, first


def _check_text(output: Location, stored: Provenance, here: Provenance) -> None:
    """Raise InputError unless sentences become the same features as those of the set."""
    differences = [line for line in stored.differences(here) if line.startswith(("text", "token"))]
    if differences:
        raise InputError(
            f"{output}: its sentences were encoded in another way ({'; '.join(differences)}); "
            "name its encoders with --encoder"
        )


class _Joiner:
    """Joins rows to the samples of shards, and counts."""

    def __init__(
        self,
        encoder: FeatureEncoder,
        clip_length: float,
        output: Location,
        report: Callable[[str], None],
    ) -> None:
        self._encoder, self._clip_length = encoder, clip_length
        self._output, self._report = output, report
        self.joined = self.unchanged = self.cut = self.shards = 0

    def join(self, index: dict[str, Any], rows: dict[str, list[Annotation]]) -> None:
        """Write the shard of this index with rows, if any of them is new to it."""
        before = self.joined
        cut = dict(index.get("unread", ()))
        fresh: dict[str, list[Annotation]] = {}
        stored = self._rows(index, rows)
        for vid, of_video in rows.items():
            known = stored.get(vid, {})
            fresh[vid] = [row for row in of_video if known.get(row.qid) != row]
            self.joined += len(fresh[vid])
            self.unchanged += len(of_video) - len(fresh[vid])
        if self.joined == before:
            return
        unread: list[tuple[int | str, int]] = []

        def change(sample: Sample) -> Sample:
            new = fresh.get(sample.vid, [])
            made = self._with(sample, new) if new else (sample, {})
            counts = {q: n for q, n in cut.items() if q not in {row.qid for row in new}} | made[1]
            unread.extend(
                (query.annotation.qid, counts[query.annotation.qid])
                for query in made[0].queries
                if query.annotation.qid in counts
            )
            return made[0]

        rewrite_shard(self._output, index, self._clip_length, change, unread)
        self.shards += 1
        self._report(index["name"])

    def _rows(
        self, index: dict[str, Any], rows: dict[str, list[Annotation]]
    ) -> dict[str, dict[int | str, Annotation]]:
        """The rows that are stored of the videos that `rows` speak of, by video and qid."""
        return {
            sample.vid: {query.annotation.qid: query.annotation for query in sample.queries}
            for sample in read_samples(self._output, index, self._clip_length)
            if sample.vid in rows
        }

    def _with(self, sample: Sample, rows: list[Annotation]) -> tuple[Sample, dict[int | str, int]]:
        """A sample with new or replaced queries, and which of those are not read to their end."""
        new = {row.qid for row in rows}
        clips = len(sample.video)
        kept, features = [], []
        for number, query in enumerate(sample.queries):
            if query.annotation.qid not in new:
                joint = None if sample.joint is None else sample.joint[clips + number]
                kept.append(query.annotation)
                features.append(SentenceFeatures(sample.text[slice(*query.tokens)], joint))
        encoded = self._encoder.encode_sentences([row.query for row in rows])
        cut = {row.qid: e.unread for row, e in zip(rows, encoded, strict=True) if e.unread}
        self.cut += len(cut)
        joint = None if sample.joint is None else sample.joint[:clips]
        made = make_sample(
            sample.vid,
            sample.duration,
            sample.clip_length,
            ClipFeatures(sample.video, joint),
            [*kept, *rows],
            [*features, *encoded],
            self._encoder.text_shape,
        )
        return made, cut
