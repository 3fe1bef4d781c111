"""Files on a disk and in an object store: the same verbs, complete or absent, one-line faults."""

import os
from pathlib import Path

import fsspec
import pytest

from data_pipeline.errors import InputError
from data_pipeline.storage import PART, Location, NotFound, remove_temporary


@pytest.fixture(params=["local", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A folder on a disk, then one in an object store."""
    if request.param == "local":
        return Location(tmp_path)
    return Location(request.getfixturevalue("bucket")) / "some/folder"


def uploads(location: Location) -> int:
    """Multipart uploads that were begun in the location's bucket and neither ended nor aborted."""
    store = fsspec.filesystem("s3")
    bucket = str(location).removeprefix("s3://").partition("/")[0]
    return len(store.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads", []))


def test_what_was_written_is_read_back_whole_and_by_ranges(folder: Location) -> None:
    file = folder / "a.bin"
    assert not file.is_file()
    file.write_bytes(b"0123456789")
    assert file.is_file()
    assert file.size() == 10
    assert file.read_bytes() == b"0123456789"
    assert file.read_range(2, 3) == b"234"
    assert file.read_range(8, 5) == b"89"
    assert file.read_range(20, 5) == b""
    with file.open() as opened:
        opened.seek(7)
        assert opened.read() == b"789"
    (folder / "b.bin").write_bytes(b"")
    assert folder.names() == ["a.bin", "b.bin"]
    assert folder.is_dir()
    file.unlink()
    file.unlink()
    assert folder.names() == ["b.bin"]


def test_a_file_of_several_parts_appears_only_when_it_is_committed(folder: Location) -> None:
    part = os.urandom(PART)
    file = folder / "large.bin"
    with file.create() as new:
        for _ in range(2):
            new.write(part)
        new.write(b"end")
        assert not file.is_file()
        new.commit()
    assert file.read_bytes() == part + part + b"end"
    assert file.read_range(2 * PART - 1, 4) == part[-1:] + b"end"


@pytest.mark.parametrize("size", [3, PART + 3])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(
    folder: Location, size: int
) -> None:
    file = folder / "a.bin"
    file.write_bytes(b"old")

    def interrupted() -> None:
        with file.create() as new:
            new.write(bytes(size))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_bytes() == b"old"
    assert folder.names() == ["a.bin"]
    if folder.local is None:
        assert uploads(folder) == 0


def test_a_missing_file_is_told_from_other_faults(folder: Location) -> None:
    for read in (Location.read_bytes, Location.size, Location.sha256):
        with pytest.raises(NotFound, match="nothing: not found"):
            read(folder / "nothing")


def test_a_store_that_cannot_be_reached_is_one_line_without_credentials(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The driver keeps its connections by thread and arguments: an unused bucket name is not enough.
    monkeypatch.setattr(Location, "_store", fsspec.filesystem("s3", endpoint_url="http://[::1]:1"))
    with pytest.raises(InputError, match=r"s3://b/a: cannot be read: .*http://\[::1\]:1") as caught:
        Location("s3://b/a").read_bytes()
    assert not isinstance(caught.value, NotFound)
    assert "very-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="set them in the environment") as caught:
        Location("s3://key:hush@bucket/folder")
    assert "hush" not in str(caught.value)
    assert "key:" not in str(caught.value)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="nonsense:// is no known kind of storage"):
        Location("nonsense://a/b").read_bytes()


def test_local_names_may_be_paths_or_file_urls(tmp_path: Path) -> None:
    assert Location(tmp_path).local == tmp_path
    assert Location(f"file://{tmp_path}/a%20b").local == tmp_path / "a b"
    assert str(Location("s3://bucket/a/") / "b") == "s3://bucket/a/b"


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (Location(tmp_path) / "a.bin").create().write(b"half")  # never closed
    (tmp_path / "b.bin").write_bytes(b"")
    assert len(os.listdir(tmp_path)) == 2
    remove_temporary(Location(tmp_path))
    assert os.listdir(tmp_path) == ["b.bin"]
