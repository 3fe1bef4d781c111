"""How is a stored shard changed in its place, without what made it, whatever fails on the way?

The index of what it becomes is written beside it first (`00000.next`), then the tar is replaced,
then the index. Whoever next writes into the folder finishes what stopped in between.
"""

from collections.abc import Callable, Iterator
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.features.checksums import kind_of
from data_pipeline.features.samples import Sample, SampleEntry, parse_sample
from data_pipeline.features.shards import read_json
from data_pipeline.features.writing import NEXT, Failure, ShardWriter
from data_pipeline.storage import Location
from data_pipeline.untrusted import reading, shown

Change = Callable[[Sample], Sample | None]


def read_samples(folder: Location, index: dict[str, Any], clip_length: float) -> Iterator[Sample]:
    """The samples of a shard, by its index; InputError for one that is damaged."""
    tar, path = folder / f"{index['name']}.tar", folder / f"{index['name']}.json"
    shapes, kind = index["shapes"], kind_of(index, path)
    for value in index["samples"]:
        with reading(path):
            entry = SampleEntry.from_json(value, 0, path, kind)
        data = tar.read_range(entry.offset, entry.size)
        try:
            yield parse_sample(
                data, entry, clip_length, shapes["video"], shapes["text"], shapes.get("joint")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{tar}: sample {entry.vid!r}: {shown(error)}") from error


def rewrite_shard(
    folder: Location,
    index: dict[str, Any],
    clip_length: float,
    change: Change,
    unread: list[tuple[int | str, int]] | None = None,
) -> dict[str, Any]:
    """Replace each sample of a shard by what `change` makes of it, None leaves it out.

    `unread` are the sentences that were not read to their end, where they change too; it may grow
    while samples are changed. Returns the new index.
    """
    kept = [(qid, count) for qid, count in index.get("unread", ())] if unread is None else unread
    left: set[str] = set()
    stored: set[int | str] = set()
    with ShardWriter(folder, index["name"]) as writer:
        for sample in read_samples(folder, index, clip_length):
            changed = change(sample)
            if changed is not None:
                writer.add(changed)
                left.add(changed.vid)
                stored.update(query.annotation.qid for query in changed.queries)
        failures = [Failure(**each) for each in index["failures"]]
        left_out = [Failure(**each) for each in index.get("left_out", ())]
        failures += [each for each in left_out if each.vid in left and each.qid not in stored]
        odd = [(each["vid"], each["warning"]) for each in index.get("warnings", ())]
        warnings = [each for each in odd if each[0] in left]
        return writer.replace(failures, kept, index.get("counted", {}), warnings)


def finish_rewriting(folder: Location) -> None:
    """Finish what a killed writer had begun to replace, or forget that it had begun."""
    for name in folder.names():
        if not name.endswith(NEXT):
            continue
        path, shard = folder / name, name.removesuffix(NEXT)
        index = read_json(path)
        tar = folder / f"{shard}.tar"
        if tar.is_file() and tar.size() == index["bytes"] and tar.sha256() == index["sha256"]:
            (folder / f"{shard}.json").write_bytes(path.read_bytes())
        path.unlink()
