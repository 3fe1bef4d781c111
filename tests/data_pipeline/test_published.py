"""Annotations as data sets publish them become rows; what is mended is counted and named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.annotations import Annotation, read_annotations, write_annotations
from data_pipeline.errors import InputError
from data_pipeline.mending import EMPTY, PAST_END, REVERSED, TWICE
from data_pipeline.published import FORMATS, Options, take


def written(folder: Path, value: Any, name: str = "published.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CHARADES = "3MSZA 24.3 30.4##person turn a light on.\n3MSZA 5.0 40.0##a person — runs.\n"
DURATIONS = 'id,subject,length\n3MSZA,HR43,30.96\n4ABCD,X,"12.5"\n'
TACOS = {
    "s13-d21.avi": {
        "timestamps": [[294, 588], [588, 294]],
        "sentences": ["He took out a pan", "He put it away"],
        "fps": 29.4,
        "num_frames": 2940,
    },
    "s14-d1": {"timestamps": [[1.5, 3]], "sentences": ["She ate"], "duration": 60},
}
ACTIVITYNET = {
    "v_1": {
        "duration": 55.15,
        "timestamps": [[0.2, 55.15], [13.7, 54.3]],
        "sentences": ["a", "b"],
    },
}
QUERIES = [
    {"clip_start_sec": 3.0, "clip_end_sec": 8.0, "query": "where"},
    {"clip_start_sec": 4.0, "clip_end_sec": 4.0, "query": "what is it"},
    {"clip_start_sec": 4.0, "clip_end_sec": 5.0, "query": None},
]
CLIP = {
    "clip_uid": "clip-1",
    "video_start_sec": 100.0,
    "video_end_sec": 580.0,
    "annotations": [{"annotation_uid": "ann", "language_queries": QUERIES}],
}
NLQ = {"version": "1", "videos": [{"video_uid": "video", "clips": [CLIP]}]}
TVSUM = lines(
    {
        "qid": 1,
        "query": "How to",
        "vid": "abc",
        "duration": 8,
        "domain": "VT",
        "label": [[1, 5], [3, 3], [2, 4], [5, 5]],
    }
)
YOUTUBE = {
    "dog_1": {
        "fps": 25.0,
        "frames": 200,
        "domain": "dog",
        "match": [1, -1, 0],
        "clip": [[0, 100], [50, 150], [100, 200]],
    }
}
SNAG = {
    "train": {
        "v1": {
            "duration": 20.0,
            "fps": 30,
            "annotations": [{"sentence_id": "s7", "segment": [2, 5], "sentence": "he sits"}],
        }
    }
}
QVHIGHLIGHTS = lines(
    {
        "qid": 1,
        "query": "A dog runs.",
        "duration": 20,
        "vid": "a_0.0_20.0",
        "relevant_windows": [[2, 6]],
        "relevant_clip_ids": [1, 2],
        "saliency_scores": [[1, 2, 3], [4, 4, 4]],
    }
)
PUBLISHED: dict[str, tuple[Any, list[Annotation]]] = {
    "charades": (
        CHARADES,
        [
            Annotation(12, "person turn a light on.", "3MSZA", 30.96, ((24.3, 30.4),)),
            Annotation(13, "a person — runs.", "3MSZA", 30.96, ((5.0, 30.96),)),
        ],
    ),
    "tacos": (
        TACOS,
        [
            Annotation("s13-d21_0", "He took out a pan", "s13-d21", 100.0, ((10.0, 20.0),)),
            Annotation("s13-d21_1", "He put it away", "s13-d21", 100.0, ((10.0, 20.0),)),
            Annotation("s14-d1_0", "She ate", "s14-d1", 60.0, ((1.5, 3.0),)),
        ],
    ),
    "activitynet": (
        ACTIVITYNET,
        [
            Annotation("v_1_0", "a", "v_1", 55.15, ((0.2, 55.15),)),
            Annotation("v_1_1", "b", "v_1", 55.15, ((13.7, 54.3),)),
        ],
    ),
    "nlq": (
        NLQ,
        [
            Annotation("ann_0", "where", "clip-1", 480.0, ((3.0, 8.0),)),
            Annotation("ann_1", "what is it", "clip-1", 480.0, ((4.0, 4.0),)),
        ],
    ),
    "tvsum": (
        TVSUM,
        [
            Annotation(
                1,
                "How to",
                "abc",
                8.0,
                saliency={0: (0, 4), 1: (2, 2), 2: (1, 3), 3: (4, 4)},
                domain="VT",
            )
        ],
    ),
    "youtube": (
        YOUTUBE,
        [
            Annotation(
                "dog_1", "dog", "dog_1", 8.0, saliency={0: (4,), 1: (0,), 2: (0,)}, domain="dog"
            )
        ],
    ),
    "snag": (SNAG, [Annotation("s7", "he sits", "v1", 20.0, ((2.0, 5.0),))]),
    "qvhighlights": (
        QVHIGHLIGHTS,
        [
            Annotation(
                1, "A dog runs.", "a_0.0_20.0", 20.0, ((2.0, 6.0),), {1: (1, 2, 3), 2: (4, 4, 4)}
            )
        ],
    ),
}


def options(folder: Path, form: str) -> Options:
    if form != "charades":
        return Options()
    return Options(durations=written(folder, DURATIONS, "Charades_v1_test.csv"), first_qid=12)


@pytest.mark.parametrize("form", FORMATS)
def test_a_published_file_becomes_rows_that_are_read_again(form: str, tmp_path: Path) -> None:
    value, expected = PUBLISHED[form]
    taken = take(written(tmp_path, value), form, options(tmp_path, form))
    for row, wanted in zip(taken.rows, expected, strict=True):
        for window, true in zip(row.windows or (), wanted.windows or (), strict=True):
            assert window == pytest.approx(true)
        assert row.duration == pytest.approx(wanted.duration)
        assert (row.qid, row.query, row.vid) == (wanted.qid, wanted.query, wanted.vid)
        assert (row.saliency, row.domain) == (wanted.saliency, wanted.domain)
        assert row.clip_length == pytest.approx(wanted.clip_length)
    write_annotations(tmp_path / "rows.jsonl", taken.rows)
    assert read_annotations(tmp_path / "rows.jsonl") == taken.rows


@pytest.mark.parametrize(
    ("form", "counted"),
    [
        ("charades", {PAST_END: 1}),
        ("tacos", {REVERSED: 1}),
        ("nlq", {EMPTY: 1, "sentences without words: left out": 1}),
        ("qvhighlights", {}),
    ],
)
def test_what_is_mended_is_counted(form: str, counted: dict[str, int], tmp_path: Path) -> None:
    path = written(tmp_path, PUBLISHED[form][0])
    taken = take(path, form, options(tmp_path, form))
    assert taken.counted == counted
    assert all(place.startswith(str(path)) for place in taken.first.values())


def test_every_repair_of_a_row_has_its_name(tmp_path: Path) -> None:
    row = {"query": "A dog runs.", "duration": 10, "vid": "v"}
    rated = {"relevant_clip_ids": [0, 0, -1, 1.5, 5, 2], "saliency_scores": [[s] for s in range(6)]}
    path = written(
        tmp_path,
        lines(
            row | {"qid": 1, "relevant_windows": [[2, 4], [2, 4], [12, 14], [-1, 3]]},
            row | {"qid": 2, "relevant_windows": [[12, 14]]},
            row | {"qid": 1, "relevant_windows": [[0, 1]]},
            row | {"qid": 3, "relevant_windows": [[0, 1]]} | rated,
            row | {"qid": 4, "relevant_windows": [[0, 1]], "duration": 9},
        ),
    )
    taken = take(path, "qvhighlights", Options())
    assert taken.counted == {
        "windows that a sentence has twice: taken once": 1,
        "windows outside the video: left out": 2,
        "windows that begin before the video: cut to it": 1,
        "sentences without a window in the video: left out": 1,
        "sentences whose qid was there before: left out": 1,
        "clips that are rated twice: the first taken": 1,
        "rated clips that are none of the video: left out": 3,
        "scores outside 0 to 4: taken for the nearest": 1,
        "sentences that gave their video less time than others: agree now": 1,
        TWICE: 1,
    }
    assert [row.qid for row in taken.rows] == [1, 3, 4]
    assert taken.rows[0].windows == ((2.0, 4.0), (0.0, 3.0))
    assert taken.rows[1].saliency == {0: (0,), 2: (4,)}
    assert taken.rows[2].duration == 10


@pytest.mark.parametrize(
    ("form", "value", "said"),
    [
        ("charades", "3MSZA 24.3##no end\n", r"published.json:1: malformed"),
        ("charades", "3MSZA 24.3 30.4 no marks\n", r"published.json:1: malformed"),
        (
            "tacos",
            {"v": {"timestamps": [[1, 2]], "sentences": [], "fps": 25, "num_frames": 9}},
            "v",
        ),
        ("tacos", {"v": {"timestamps": [], "sentences": [], "fps": 0, "num_frames": 9}}, "'v'"),
        ("tacos", ["no object"], "expected a JSON object"),
        ("activitynet", {"v": {"duration": 5, "timestamps": [[1]], "sentences": ["a"]}}, "'v'"),
        ("activitynet", "{broken", "not valid JSON"),
        ("activitynet", {}, "gives no row"),
        ("nlq", {"videos": [{"clips": [{}]}]}, "malformed"),
        ("snag", {"train": {}, "val": {}}, "say which with --split"),
        (
            "tvsum",
            lines({"qid": 1, "query": "q", "vid": "v", "duration": 4, "label": [1]}),
            "label",
        ),
        (
            "activitynet",
            {"../v": {"duration": 5, "timestamps": [[1, 2]], "sentences": ["a"]}},
            "name",
        ),
        ("qvhighlights", "[1]\n", "expected a JSON object"),
        ("qvhighlights", "", "gives no row"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_the_place(
    form: str, value: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        take(written(tmp_path, value), form, options(tmp_path, form))
    assert "published.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_charades_without_durations_says_which_file_has_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --durations Charades_v1_train"):
        take(written(tmp_path, CHARADES), "charades", Options())
    table = written(tmp_path, "vid,seconds\n", "other.csv")
    with pytest.raises(InputError, match=r"other\.csv: malformed .*columns id and length"):
        take(written(tmp_path, CHARADES), "charades", Options(durations=table))


def test_the_real_rows_of_three_data_sets_pass_as_they_are() -> None:
    folder = Path(os.environ.get("SDST_ANNOTATIONS", "../shared/annotations"))
    if not folder.is_dir():
        pytest.skip("the real annotation files are not here; set SDST_ANNOTATIONS to their folder")
    for path in sorted(folder.glob("*/*.jsonl")):
        taken = take(path, path.parent.name, Options())
        assert taken.rows == read_annotations(path)
        assert not taken.counted.keys() - {TWICE}
