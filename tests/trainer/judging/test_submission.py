import json
import zipfile

import pytest

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from trainer.judging.submission import MEMBERS, check, write_submission

VAL = [Annotation(i, f"query {i}", f"v{i}", 20.0 + i) for i in range(4)]
TEST = [Annotation(100 + i, f"query {i}", f"w{i}", 150.0) for i in range(3)]


def rows_for(annotations):
    return [
        {
            "qid": a.qid,
            "query": a.query,
            "vid": a.vid,
            "pred_relevant_windows": [[2.0, 8.0, 0.9], [0.0, a.duration, 0.4]],
            "pred_saliency_scores": [0.5] * int(a.duration / 2),
        }
        for a in annotations
    ]


def written(folder):
    return write_submission(folder, {"val": (rows_for(VAL), VAL), "test": (rows_for(TEST), TEST)})


def messages(path, annotations=(VAL, TEST), **options):
    return [str(fault) for fault in check(path, annotations, **options)]


def jsonl(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_a_written_submission_has_no_fault(tmp_path):
    path = written(tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == sorted(MEMBERS.values())
    assert messages(path) == []
    assert messages(tmp_path / "hl_val_submission.jsonl") == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [*sorted(MEMBERS.values()), path.name]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    assert written(tmp_path / "a").read_bytes() == written(tmp_path / "b").read_bytes()


def test_nothing_is_written_when_a_row_has_a_fault(tmp_path):
    rows = rows_for(TEST)
    rows[1]["pred_saliency_scores"].pop()
    with pytest.raises(InputError, match=r"hl_test_submission\.jsonl:2: .*74 scores, not 75"):
        write_submission(tmp_path / "s", {"val": (rows_for(VAL), VAL), "test": (rows, TEST)})
    assert not (tmp_path / "s").exists()


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="'train'"):
        write_submission(tmp_path, {"train": (rows_for(VAL), VAL)})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"qid": 0}, "qid 0 occurs twice"),
        ({"qid": 55}, "qid 55 is not in the annotations"),
        ({"query": "another"}, "'query' is 'another', the annotation has 'query 1'"),
        ({"vid": None}, "'vid' is missing"),
        ({"pred_relevant_windows": []}, "is empty"),
        ({"pred_relevant_windows": [[0, 4, 0.1], [4, 8, 0.2]]}, "not sorted by score: 0.2"),
        ({"pred_relevant_windows": [[0, 21.5, 1]]}, "leaves the video, [0, 21] s"),
        ({"pred_relevant_windows": [[-1, 4, 1]]}, "leaves the video"),
        ({"pred_relevant_windows": [[4, 4, 1]]}, "does not end after it starts"),
        ({"pred_relevant_windows": [[0, 4]]}, "its score is missing"),
        ({"pred_relevant_windows": None}, "'pred_relevant_windows' is missing"),
        ({"pred_saliency_scores": [0.5] * 11}, "11 scores, not 10"),
        ({"pred_saliency_scores": [float("inf")] * 10}, "Infinity is no number"),
        ({"pred_saliency_scores": None}, "'pred_saliency_scores' is missing"),
    ],
)
def test_each_fault_is_named_with_its_line(tmp_path, change, expected):
    rows = rows_for(VAL)
    rows[1] |= change
    found = messages(jsonl(tmp_path / "p.jsonl", rows))
    assert any(m.startswith("p.jsonl:2: ") and expected in m for m in found), found


def test_all_faults_are_listed_in_the_order_of_lines(tmp_path):
    rows = [*rows_for(VAL)[:3], "", "{not json", "[]"]
    rows[0]["query"] = 3
    found = messages(jsonl(tmp_path / "p.jsonl", rows))
    assert [m.split(": ")[0] for m in found] == ["p.jsonl:5", "p.jsonl:1", "p.jsonl:6", "p.jsonl"]
    assert "no row for qid 3" in found[-1]


def test_a_short_video_needs_its_odd_second_dropped(tmp_path):
    rows = rows_for(VAL)
    rows[3]["pred_saliency_scores"].append(0.0)  # 23 s: int(23 / 2) is 11, not 12
    assert any("12 scores, not 11" in m for m in messages(jsonl(tmp_path / "p.jsonl", rows)))


def test_without_annotations_only_the_rows_themselves_are_judged(tmp_path):
    rows = rows_for(VAL)
    rows[1]["pred_relevant_windows"] = [[0, 4, 0.1], [4, 8000, 0.2]]
    rows[2]["pred_saliency_scores"] = [1.0]
    found = messages(jsonl(tmp_path / "p.jsonl", rows), ())
    assert len(found) == 1
    assert "not sorted" in found[0]


def test_data_sets_without_highlights_need_no_scores(tmp_path):
    rows = [{k: v for k, v in r.items() if k != "pred_saliency_scores"} for r in rows_for(VAL)]
    path = jsonl(tmp_path / "p.jsonl", rows)
    assert messages(path, highlights=False) == []
    assert len(messages(path)) == 4


def archive(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, rows in members:
            file.writestr(name, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_inside_the_zip_is_a_fault(tmp_path):
    members = [("sub/" + MEMBERS["val"], rows_for(VAL)), (MEMBERS["test"], rows_for(TEST))]
    found = messages(archive(tmp_path / "s.zip", members))
    assert len(found) == 1
    assert "not in a folder" in found[0]


def test_missing_and_foreign_files_in_the_zip_are_faults(tmp_path):
    members = [(MEMBERS["val"], rows_for(VAL)), ("__MACOSX/notes", [])]
    found = messages(archive(tmp_path / "s.zip", members))
    assert [m.partition(": ")[2] for m in found] == [
        "hl_test_submission.jsonl is missing",
        "__MACOSX/notes does not belong here; remove it",
    ]


def test_faults_in_a_zip_name_the_file_inside_it(tmp_path):
    rows = rows_for(TEST)
    rows[2]["vid"] = "other"
    members = [(MEMBERS["val"], rows_for(VAL)), (MEMBERS["test"], rows)]
    (message,) = messages(archive(tmp_path / "s.zip", members), (TEST, VAL))
    assert message.startswith("s.zip/hl_test_submission.jsonl:3: 'vid' is 'other'")


def test_what_is_not_a_zip_or_not_there_is_named(tmp_path):
    (tmp_path / "s.zip").write_text("no")
    with pytest.raises(
        InputError, match=r"s\.zip: damaged, or another kind of file .*; write the submission again"
    ):
        check(tmp_path / "s.zip", ())
    with pytest.raises(InputError, match="cannot be read"):
        check(tmp_path / "absent.jsonl", ())
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00\n")
    assert "not UTF-8 text" in messages(tmp_path / "binary.jsonl", ())[0]


def packed(path, text, name=MEMBERS["val"], method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file, file.open(name, "w") as member:
        for part in text if not isinstance(text, bytes) else [text]:
            member.write(part)
    return path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", [b" ", b"\n", b"[],", b"[]\n"])
def test_a_bomb_is_one_line_before_it_is_unpacked(tmp_path, part):
    megabyte = part * (1_000_000 // len(part))
    path = packed(tmp_path / "s.zip", (megabyte for _ in range(300)))
    with pytest.raises(InputError, match=r"s\.zip/hl_val_submission\.jsonl: unpacks to \d+ MB"):
        check(path, ())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("part", "says"),
    [
        (b"\n", ":100001: more than 100000 lines"),
        (b"[]\n", ":100001: more than 100000 lines"),
        (b"[],", ":1: more than 1 MB in a line"),
        (b"[", ":1: more than 1 MB in a line"),
    ],
)
def test_lines_that_no_submission_has_are_a_fault_and_end_it(tmp_path, part, says):
    text = part * (30_000_000 // len(part))
    path = packed(tmp_path / "s.zip", text, method=zipfile.ZIP_STORED)
    (tmp_path / "p.jsonl").write_bytes(text)
    for found in (messages(path, ()), messages(tmp_path / "p.jsonl", ())):
        assert any(says in message for message in found), found[:3]


def test_a_zip_that_cannot_be_unpacked_is_one_line(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in rows_for(VAL)).encode()
    sound = packed(tmp_path / "s.zip", text).read_bytes()
    central = sound.index(b"PK\1\2")
    for place, change, says in (
        (central + 8, 1, "is encrypted"),
        (central + 10, 77, "is not packed by deflate"),
        (central + 6, 255, "damaged"),
        (60, 255, "damaged"),
    ):
        altered = bytearray(sound)
        altered[place] ^= change
        path = tmp_path / "altered.zip"
        path.write_bytes(altered)
        with pytest.raises(InputError, match=says) as caught:
            check(path, ())
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(InputError, match="is not packed by deflate; write it again with zip"):
            check(packed(tmp_path / "b.zip", text, method=method), ())


def test_every_changed_byte_of_a_zip_is_a_fault_a_line_or_does_not_matter(tmp_path):
    sound = written(tmp_path).read_bytes()
    for place in range(0, len(sound), 3):
        path = tmp_path / "altered.zip"
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x55]) + sound[place + 1 :])
        try:
            check(path, ())
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - many cases in one test


def test_thousands_of_names_are_judged_at_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as file:
        for number in range(20_000):
            file.writestr(f"{number}/\x1b[31m{MEMBERS['val']}", b"")
    found = messages(tmp_path / "s.zip", ())
    assert len(found) == 20_002
    assert not any("\x1b" in message for message in found)
