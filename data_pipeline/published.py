"""How do data sets publish their annotations, and which rows are they to us?

    charades      lines `VID start end##sentence`, durations in Charades_v1_*.csv (column length)
    tacos         {vid: {timestamps: [[frame, frame]], fps, num_frames, sentences}}, as in 2D-TAN
    activitynet   {vid: {duration, timestamps: [[second, second]], sentences}}
    nlq           {videos: [{clips: [{annotations: [{language_queries: [{…}]}]}]}]}
    tvsum         rows of QVHighlights' keys with label (clips x annotators, 1 to 5) and domain
    youtube       rows with match, clip (ranges of frames) and domain
    snag          {split: {vid: {duration, annotations: [{sentence_id, segment, sentence}]}}}
    qvhighlights  rows

Rows of our format, one JSON object a line, are taken whatever the data set: others publish Charades
and TACoS so. What is mended is counted, with the place where it was first.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.mending import Row, Taken, agree, mend
from data_pipeline.untrusted import (
    MAX_JSON,
    iter_lines,
    parse_json,
    plain_name,
    read_bytes,
    reading,
    shown,
)
from data_pipeline.video.names import is_video


@dataclass(frozen=True)
class Options:
    """What the formats need beside the file.

    `durations`: Charades' table; `split`: of a file that holds several; `first_qid`: number of the
    first sentence, where sentences are numbered.
    """

    durations: Path | None = None
    split: str | None = None
    first_qid: int = 0


def take(path: Path, form: str, options: Options) -> Taken:
    """The rows of a data set's own file, mended where they need it.

    Raises InputError for a file that is not of this format, naming the place.
    """
    taken = Taken()
    own = FORMATS[form]
    given = _rows(path) if own is _rows or _holds_rows(path) else own(path, options)
    for place, row in given:
        with reading(place, "is this the right --format?"):
            mended = mend(row, place, taken)
        if mended is not None:
            plain_name(mended.vid, "the video's name", place, folders=True)
            taken.rows.append(mended)
    if not taken.rows:
        raise InputError(f"{path}: gives no row; is it of format {form}?")
    taken.rows = agree(taken.rows, taken)
    return taken


# Each format


def _holds_rows(path: Path) -> bool:
    """Whether the first line is an object with the keys of a row."""
    for _, line in iter_lines(path):
        try:
            row = parse_json(line, path)
        except InputError:
            return False
        return isinstance(row, dict) and {"qid", "query", "vid"} <= row.keys()
    return False


def _rows(path: Path, _: Options | None = None) -> Iterator[tuple[str, Row]]:
    for number, line in iter_lines(path):
        yield f"{path}:{number}", parse_json(line, f"{path}:{number}")


def _charades(path: Path, options: Options) -> Iterator[tuple[str, Row]]:
    if options.durations is None:
        raise InputError(
            f"{path}: has no durations; give --durations Charades_v1_train.csv (or _test), whose "
            "column length holds them"
        )
    durations = read_durations(options.durations)
    qid = options.first_qid
    for number, line in iter_lines(path):
        place = f"{path}:{number}"
        with reading(place, "a line is `VID start end##sentence`"):
            text = line.decode()
            times, separator, sentence = text.strip().partition("##")
            vid, start, end = times.split()
            if not separator:
                raise ValueError("has no ##")
            row = {"qid": qid, "vid": vid, "query": sentence, "duration": durations.get(vid)}
            yield place, row | {"relevant_windows": [[float(start), float(end)]]}
        qid += 1


def read_durations(path: Path) -> dict[str, float]:
    """{vid: seconds} of a table with the columns id and length, as Charades has it."""
    with reading(path, "it needs the columns id and length"):
        table = csv.DictReader(io.StringIO(read_bytes(path, MAX_JSON).decode("utf-8-sig")))
        if not {"id", "length"} <= set(table.fieldnames or ()):
            raise ValueError(f"columns {shown(list(table.fieldnames or ()))}")
        return {row["id"]: float(row["length"]) for row in table}


def _by_video(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(place, vid, value) of a JSON object of videos."""
    for vid, value in _object(parse_json(read_bytes(path, MAX_JSON), path), path).items():
        yield f"{path}: {shown(vid)}", vid, _object(value, f"{path}: {shown(vid)}")


def _object(value: Any, place: str | Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{place}: expected a JSON object, found {type(value).__name__}")
    return value


def _timed_sentences(
    place: str, vid: str, value: dict[str, Any], seconds: float, duration: Any
) -> Iterator[tuple[str, Row]]:
    """The sentences of a video, whose times are in parts of `seconds`."""
    with reading(place, "is this the right --format?"):
        times, sentences = value["timestamps"], value["sentences"]
        if len(times) != len(sentences):
            raise ValueError(f"{len(times)} timestamps and {len(sentences)} sentences")
        for number, ((start, end), sentence) in enumerate(zip(times, sentences, strict=True)):
            window = [start * seconds, end * seconds]
            row = {"qid": f"{vid}_{number}", "vid": vid, "query": sentence, "duration": duration}
            yield f"{place} sentence {number}", row | {"relevant_windows": [window]}


def _tacos(path: Path, _: Options) -> Iterator[tuple[str, Row]]:
    for place, name, value in _by_video(path):
        vid = _stem(name)
        with reading(place, "it needs fps and num_frames, or duration"):
            if "fps" in value:
                seconds = 1 / value["fps"]
                duration = value["num_frames"] * seconds
            else:
                seconds, duration = 1.0, value["duration"]
        yield from _timed_sentences(place, vid, value, seconds, duration)


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return name.removesuffix(path.suffix) if is_video(name) else name


def _activitynet(path: Path, _: Options) -> Iterator[tuple[str, Row]]:
    for place, vid, value in _by_video(path):
        yield from _timed_sentences(place, vid, value, 1.0, value.get("duration"))


def _nlq(path: Path, _: Options) -> Iterator[tuple[str, Row]]:
    whole = _object(parse_json(read_bytes(path, MAX_JSON), path), path)
    with reading(path, "is it Ego4D's nlq_*.json?"):
        for video in whole["videos"]:
            for clip in video["clips"]:
                vid = clip["clip_uid"]
                duration = clip["video_end_sec"] - clip["video_start_sec"]
                for each in clip["annotations"]:
                    for number, query in enumerate(each["language_queries"]):
                        place = f"{path}: clip {shown(vid)} query {number}"
                        if "clip_start_sec" in query:  # the test split withholds it
                            window = [query["clip_start_sec"], query["clip_end_sec"]]
                        else:
                            window = None
                        yield (
                            place,
                            {
                                "qid": f"{each['annotation_uid']}_{number}",
                                "vid": vid,
                                "query": query.get("query"),
                                "duration": duration,
                                "relevant_windows": window and [window],
                            },
                        )


def _snag(path: Path, options: Options) -> Iterator[tuple[str, Row]]:
    whole = _object(parse_json(read_bytes(path, MAX_JSON), path), path)
    split = options.split or (next(iter(whole)) if len(whole) == 1 else None)
    if split not in whole:
        raise InputError(f"{path}: holds {', '.join(map(shown, whole))}; say which with --split")
    for vid, value in _object(whole[split], path).items():
        place = f"{path}: {shown(vid)}"
        with reading(place, "is it of SnAG's format?"):
            for number, each in enumerate(value["annotations"]):
                yield (
                    f"{place} sentence {number}",
                    {
                        "qid": each.get("sentence_id", f"{vid}_{number}"),
                        "vid": vid,
                        "query": each["sentence"],
                        "duration": value["duration"],
                        "relevant_windows": [each["segment"]] if each.get("segment") else None,
                    },
                )


def _labelled(path: Path, options: Options) -> Iterator[tuple[str, Row]]:
    """TVSum's and YouTube's videos: lines, a list, or an object of videos."""
    for number, (place, vid, value) in enumerate(_videos(path)):
        with reading(place, "is this the right --format?"):
            row = dict(_object(value, place))
            row.setdefault("vid", vid)
            row.setdefault("qid", row["vid"] if vid is not None else options.first_qid + number)
            row["query"] = row.get("query") or row.get("title") or row.get("domain")
            frames, fps = row.get("frames", row.get("num_frames")), row.get("fps")
            ranges = row.get("clip")
            if "duration" not in row and fps:
                last = frames or (ranges and ranges[-1][1])
                row["duration"] = last / fps if last else None
            if ranges and len(ranges) > 1 and "clip_length" not in row:
                # Clips overlap: each stands for the time until the next one begins.
                stride = (ranges[-1][0] - ranges[0][0]) / (len(ranges) - 1)
                seconds = 1 / fps if fps else row["duration"] / (frames or ranges[-1][1])
                row["clip_length"] = stride * seconds
        yield place, row


def _videos(path: Path) -> Iterator[tuple[str, str | None, Any]]:
    """(place, name, value); names are those of an object's keys."""
    data = read_bytes(path, MAX_JSON)
    try:
        whole = parse_json(data, path)
    except InputError:
        for place, row in _rows(path):
            yield place, None, row
        return
    if isinstance(whole, dict) and not {"label", "match"} & whole.keys():
        for vid, value in whole.items():
            yield f"{path}: {shown(vid)}", vid, value
    else:
        for number, value in enumerate(whole if isinstance(whole, list) else [whole]):
            yield f"{path}: video {number}", None, value


FORMATS: dict[str, Callable[[Path, Options], Iterator[tuple[str, Row]]]] = {
    "charades": _charades,
    "tacos": _tacos,
    "activitynet": _activitynet,
    "nlq": _nlq,
    "tvsum": _labelled,
    "youtube": _labelled,
    "snag": _snag,
    "qvhighlights": _rows,
}
