"""Archives are listed as they lie: nested, linked, oddly named, large, in lists and in buckets."""

import os
import time
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from data_pipeline.extraction.listing import list_archive
from data_pipeline.storage import Location


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def names(source: object, out: Path) -> list[str]:
    return [each.name for each in list_archive(str(source), out).found]


def test_videos_of_all_folders_are_known_by_their_paths(tmp_path: Path) -> None:
    top = touch(
        tmp_path / "top",
        *("b.mp4", "a/film.mp4", "a/film.mkv", "c/deep/er/film.mp4", "CAPITALS.MOV", "x.WebM"),
        *("notes.txt", "a/film.mp4.part", "no_suffix", "._b.mp4", ".hidden/c.mp4", "t/000.tar"),
    )
    assert names(top, tmp_path / "out") == [
        *("CAPITALS.MOV", "a/film.mkv", "a/film.mp4", "b.mp4", "c/deep/er/film.mp4"),
        *("t/000.tar", "x.WebM"),
    ]


def test_features_inside_the_archive_are_no_part_of_it(tmp_path: Path) -> None:
    top = touch(tmp_path, "a.mp4", "features/set/00000.tar")
    assert names(top, top / "features" / "set") == ["a.mp4"]


def test_links_are_followed_and_no_folder_is_looked_into_twice(tmp_path: Path) -> None:
    top = touch(tmp_path / "top", "real/a.mp4")
    touch(tmp_path / "elsewhere", "b.mp4")
    (top / "real" / "circle").symlink_to(top)
    (top / "again").symlink_to(top / "real")
    (top / "outside").symlink_to(tmp_path / "elsewhere")
    (top / "linked.mp4").symlink_to(top / "real" / "a.mp4")
    (top / "broken.mp4").symlink_to(tmp_path / "gone.mp4")
    listing = list_archive(top, tmp_path / "out")
    assert [each.name for each in listing.found] == ["linked.mp4", "outside/b.mp4", "real/a.mp4"]
    (odd,) = listing.odd
    assert "broken.mp4: a link that leads nowhere" in odd


def test_names_that_cannot_be_ids_are_told_and_the_rest_is_taken(tmp_path: Path) -> None:
    top = touch(tmp_path / "top", "fine.mp4", "two words é.mp4", "back\\slash.mp4", "line\nend.mp4")
    with open(os.fsencode(top) + b"/latin\xe9.mp4", "wb"):
        pass
    listing = list_archive(top, tmp_path / "out")
    assert [each.name for each in listing.found] == ["fine.mp4", "two words é.mp4"]
    assert len(listing.odd) == 3
    assert all("\n" not in line and "rename it" in line for line in listing.odd)
    assert any("UTF-8" in line for line in listing.odd)


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    top = touch(tmp_path / "top", "a.mp4")
    (before,) = list_archive(top, tmp_path / "out").found
    (top / "a.mp4").write_bytes(b"xy")
    (after,) = list_archive(top, tmp_path / "out").found
    assert before.stamp != after.stamp


def test_a_list_names_files_beside_it_elsewhere_and_in_stores(tmp_path: Path) -> None:
    touch(tmp_path, "here/a.mp4", "b.mp4")
    lines = [
        "# of today",
        "./here/a.mp4",
        "",
        str(tmp_path / "b.mp4"),
        "s3://bucket/c.mp4",
        "gone.mp4",
    ]
    list_file = tmp_path / "list.txt"
    list_file.write_text("\n".join(lines) + "\n")
    found = {each.name: each.path for each in list_archive(list_file, tmp_path / "out").found}
    assert found == {
        "here/a.mp4": str(tmp_path / "here" / "a.mp4"),
        str(tmp_path / "b.mp4").lstrip("/"): str(tmp_path / "b.mp4"),
        "bucket/c.mp4": "s3://bucket/c.mp4",
        "gone.mp4": str(tmp_path / "gone.mp4"),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.mp4\n../b.mp4\n", r"list.txt:2: .*cannot name a file"),
        ("a.mp4\nx/../../b.mp4\n", r"list.txt:2: .*cannot name a file"),
        ("a\0.mp4\n", r"list.txt:1: .*cannot name a file"),
        ("a.mp4\n./a.mp4\n", r"list.txt:2: 'a.mp4' is listed twice"),
        ("s3://key:secret@bucket/a.mp4\n", "credentials in a URL"),
        ("# nothing\n", "holds no videos"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_faults_of_a_list_name_the_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    list_file = tmp_path / "list.txt"
    list_file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError, match=said):
        list_archive(list_file, tmp_path / "out")


@pytest.mark.parametrize("what", ["nothing", "empty", "file.mp4"])
def test_what_holds_no_videos_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "file.mp4")
    with pytest.raises(InputError, match=r"no such folder or list|holds no videos"):
        list_archive(tmp_path / what, tmp_path / "out")


def test_the_names_below_a_prefix_are_listed(bucket: str) -> None:
    for name in ("top/a/film.mp4", "top/b.MKV", "top/notes.json", "topmost/c.mp4", "top/out/0.tar"):
        (Location(bucket) / name).write_bytes(b"x")
    listing = list_archive(f"{bucket}/top", f"{bucket}/top/out")
    assert [each.name for each in listing.found] == ["a/film.mp4", "b.MKV"]
    assert listing.found[0].path == f"{bucket}/top/a/film.mp4"
    before = listing.found[0].stamp
    (Location(bucket) / "top/a/film.mp4").write_bytes(b"y")
    assert list_archive(f"{bucket}/top", f"{bucket}/top/out").found[0].stamp != before


def test_ten_thousand_files_take_a_moment(tmp_path: Path) -> None:
    for folder in range(100):
        touch(tmp_path / "top" / f"{folder:02d}", *(f"{n:03d}.mp4" for n in range(100)))
    began = time.perf_counter()
    assert len(names(tmp_path / "top", tmp_path / "out")) == 10_000
    assert time.perf_counter() - began < 10  # a tenth of that here: this is for what grows faster
