"""Look into a set of feature shards, in a folder or at a URL: `verify`, `stats` or `ls`.

`index` writes the index over all of a set that lacks one, by which large sets open fast.
`annotate` joins the sentences of a file of rows to the stored videos that they speak of:

    python -m launch.shards annotate features/archive rows.jsonl
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.table import Table

from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from data_pipeline.features.index import NAME
from data_pipeline.features.shards import FeatureSet, Provenance, write_index
from data_pipeline.features.verify import read_failures, verify
from data_pipeline.storage import Location
from trainer.cli import command, load_section, make_parser, parse, terminal

EXIT_FAULTS = 1
CONSOLE = terminal(soft_wrap=True)


@command
def main(args: Sequence[str] | None = None) -> int:
    """Status 1 if `verify` finds a fault, or rows to join speak of videos that are not stored."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "action", type=Literal["verify", "stats", "ls", "annotate", "index"], help="what to do"
    )
    parser.add_argument("folder", type=str, help="folder or URL of manifest.json")
    parser.add_argument("rows", nargs="?", type=Path | None, help="for annotate: rows to join")
    parser.add_argument(
        "--encoder",
        type=Path | None,
        help="for annotate: YAML file whose section 'encoder' is the one that made the set; "
        "default: what the set says, with weights from packages or the hub",
    )
    parser.add_argument(
        "--annotations", type=Path | None, help="for verify: rows that must be covered"
    )
    values = parse(parser, args)
    if values.action == "annotate":
        return join(values.folder, values.rows, values.encoder)
    if values.rows is not None:
        raise InputError(f"{values.rows}: rows are for annotate; verify takes --annotations")
    if values.action == "verify":
        return check(values.folder, values.annotations)
    if values.action == "index":
        return index(values.folder)
    features = FeatureSet(values.folder)
    if values.action == "stats":
        tell_statistics(features)
    else:
        list_samples(features)
    return 0


def join(folder: str, rows: Path | None, settings: Path | None) -> int:
    """Join rows to a set and print what became of them."""
    if rows is None:
        raise InputError("annotate: name a file of rows, one JSON object a line")
    from data_pipeline.extraction.annotating import annotate
    from data_pipeline.extraction.encoding import FeatureEncoder
    from trainer.inference.pretrained import encoder_of

    def encoder(provenance: Provenance) -> FeatureEncoder:
        if settings is not None:
            return FeatureEncoder(load_section(EncoderConfig, settings, "encoder"))
        return FeatureEncoder(encoder_of(provenance))

    done = annotate(folder, rows, encoder, lambda name: CONSOLE.print(f"shard {name} written"))
    CONSOLE.print(
        f"{folder}: {done.joined} sentences joined, {done.unchanged} were there, in {done.shards} "
        "shards"
    )
    if done.missing:
        names = ", ".join(dict.fromkeys(done.missing[:5]))
        line = f"{len(done.missing)} rows speak of videos that are not stored: {names}"
        CONSOLE.print(f"{line}{', …' if len(done.missing) > 5 else ''}", style="yellow")
    if done.unread:
        CONSOLE.print(
            f"{done.unread} sentences are longer than the encoder reads: their ends make no "
            f"difference; {Location(folder) / 'unread.jsonl'} names them",
            style="yellow",
        )
    return EXIT_FAULTS if done.missing else 0


def index(folder: str) -> int:
    """Write the index over all of a set, from the indexes of its shards."""
    from data_pipeline.extraction.job_folder import JobFolder

    output = Location(folder)
    if not (output / "manifest.json").is_file():
        raise InputError(f"{output / 'manifest.json'}: not found; name a set of features")
    with JobFolder(output, retry_failed=False).held():
        features = write_index(output)
    size = (output / NAME).size()
    CONSOLE.print(
        f"{output / NAME}: {len(features)} videos, {features.pairs} sentences, {size / 1e6:.1f} MB"
    )
    return 0


def check(folder: str, annotations: Path | None) -> int:
    """Print every fault, and how many there are."""
    count = 0
    for fault in verify(folder, annotations):
        CONSOLE.print(f"error: {fault}")
        count += 1
    if count:
        CONSOLE.print(f"{folder}: {count} faults; remove the shards they name and extract again")
        return EXIT_FAULTS
    totals = FeatureSet(folder).manifest["totals"]
    CONSOLE.print(
        f"{folder}: whole; {totals['videos']} videos, {totals['queries']} queries, "
        f"{totals['clips']} clips, {totals['failures']} failures recorded"
    )
    return 0


def tell_statistics(features: FeatureSet) -> None:
    """Print what the set holds and how it was made."""
    table = Table(show_header=False, box=None)
    totals, made_of = features.manifest["totals"], features.manifest["annotations"]
    clips = features.columns.clips
    rows = {
        "split": features.split,
        "annotations": made_of["name"],
        "videos": f"{totals['videos']} of {made_of.get('videos', '?')}",
        "queries": f"{totals['queries']} of {made_of.get('queries', '?')}",
        "features": f"{clips.sum()} clips, {clips.min()} to {clips.max()} a video",
        "shards": f"{len(features.shards)}, {totals['bytes'] / 1e6:.1f} MB",
        "video shape": _axes("L", *features.video_shape),
        "text shape": _axes("T", *features.text_shape),
        **features.provenance.summary(),
    }
    failures = Counter(
        f"{row['kind']}, a query" if "qid" in row else row["kind"]
        for row in read_failures(features.folder)
    )
    rows["failures"] = ", ".join(f"{n} {kind}" for kind, n in failures.items()) or "none"
    for name, value in rows.items():
        table.add_row(name, value)
    CONSOLE.print(table)


def _axes(*shape: int | str) -> str:
    return f"({', '.join(map(str, shape))})"


def list_samples(features: FeatureSet) -> None:
    """Print one line per sample, for other programs too: shard, id, clips, queries, bytes."""
    for sample in features.samples:
        name = features.path(sample.shard).name
        print(name, sample.vid, sample.clips, len(sample.queries), sample.size, sep="\t")


if __name__ == "__main__":
    sys.exit(main())
