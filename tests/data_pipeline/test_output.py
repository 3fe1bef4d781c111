"""A result gets its name whole or not at all, and what cannot be written is one line."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from data_pipeline.output import (
    NotWritten,
    check_file,
    check_folder,
    make_folder,
    open_beside_others,
    whole,
    write_text,
)


def mounted_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)


def test_a_file_of_the_longest_name_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / ("é" * 127 + "x")
    assert len(os.fsencode(path.name)) == 255
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == [path.name]


def test_what_fails_inside_leaves_the_file_of_before_and_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "a") as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


KILLED = """
import os, signal, sys
from pathlib import Path
from data_pipeline.output import whole
with whole(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_writer_of(path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", KILLED, path], env=environment, check=False)


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    for name in ("a[1]", "b"):
        kill_a_writer_of(tmp_path / name)
    (tmp_path / ".mine.tmp").touch()
    assert len(os.listdir(tmp_path)) == 3
    with whole(tmp_path / "a[1]") as written:
        check_file(tmp_path / "a[1]")
        others = [name for name in os.listdir(tmp_path) if name != written.name]
        assert {name[:3] for name in others} == {".b.", ".mi"}
        check_folder(tmp_path)
        assert set(os.listdir(tmp_path)) == {written.name, ".mine.tmp"}
        written.write_text("whole")
    assert set(os.listdir(tmp_path)) == {"a[1]", ".mine.tmp"}


def test_nobodys_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a").symlink_to("mine")
    write_text(tmp_path / "a", "result")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "a").read_text() == "result"


def test_a_full_disk_is_one_line_that_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(
        NotWritten, match="big: cannot be written: No space left on device; make room"
    ):
        write_text(small_disk / "big", "x" * 20_000_000)
    assert os.listdir(small_disk) == []


def test_a_limit_of_file_sizes_is_one_line_that_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from data_pipeline.output import write_text\n"
        "try: write_text(Path('big'), 'x' * 100_000)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("big: cannot be written: File too large; "), done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("folder", "Is a directory; choose another name"),
        ("file/result", "a part of its path is a file"),
        ("file/below/result", "a part of its path is a file"),
        ("x" * 256, "choose a shorter name"),
        ("é" * 128, "choose a shorter name"),
        ("x" * 256 + "/result", "choose a shorter name"),
        ("/".join(["x" * 200] * 30), "choose a shorter name"),
        ("pipe", "is no file that could be replaced"),
        ("full", "is no file that could be replaced"),
        ("/dev/result", "is no file that could be replaced"),
    ],
)
def test_a_file_that_cannot_be_is_found_before_the_work(
    tmp_path: Path, name: str, says: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "full").symlink_to("/dev/full")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError) as caught:
        check_file(tmp_path / name)
    assert says in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_folder_that_cannot_be_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for name, says in (
        ("file", "file: cannot be written: Not a directory"),
        ("file/below", "a part of its path is a file"),
        ("x" * 256, "choose a shorter name"),
    ):
        with pytest.raises(InputError, match=says):
            check_folder(tmp_path / name)
    with pytest.raises(InputError, match="a part of its path is a file"):
        make_folder(tmp_path / "file")


def test_a_disk_mounted_read_only_is_found_before_the_work(small_disk: Path) -> None:
    mounted_read_only(small_disk)
    for check in (check_file, check_folder):
        with pytest.raises(InputError, match="Read-only file system; choose a folder that may be"):
            check(small_disk / "new" / "result")


def test_what_is_checked_is_not_made(tmp_path: Path) -> None:
    check_file(tmp_path / "new" / "result")
    check_folder(tmp_path / "new" / "folder")
    check_file(Path("result"))
    assert os.listdir(tmp_path) == []
    assert not os.path.exists("result")


@pytest.fixture
def nobody() -> Iterator[None]:
    """Permissions are those of a user who owns nothing."""
    if os.getuid():
        pytest.skip("only root can become somebody else")
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_folder_of_somebody_elses_is_found_before_the_work(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    (tmp_path / "mine").write_text("mine")
    request.getfixturevalue("nobody")
    for check, name in ((check_file, "new"), (check_file, "mine"), (check_folder, "new/folder")):
        with pytest.raises(InputError, match="Permission denied; choose a folder that may be"):
            check(tmp_path / name)
    with pytest.raises(InputError, match="mine: cannot be written: Permission denied"):
        write_text(tmp_path / "mine", "theirs")


def test_two_who_write_one_file_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    texts = [letter * 100_000 for letter in "ab"]

    def write(text: str) -> None:
        for _ in range(50):
            write_text(tmp_path / "result", text)
            assert (tmp_path / "result").read_text() in texts

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, texts * 2))
    assert os.listdir(tmp_path) == ["result"]


def test_a_lock_or_a_log_is_not_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for append in (False, True):
        (tmp_path / "lock").symlink_to("mine")
        with pytest.raises(NotWritten, match=r"lock: cannot be .*; it is a link; remove it"):
            open_beside_others(tmp_path / "lock", append)
        (tmp_path / "lock").unlink()
        with open_beside_others(tmp_path / "lock", append) as file:
            file.write(b"x")
        assert (tmp_path / "lock").read_text() == "x"
        (tmp_path / "lock").unlink()
    assert (tmp_path / "mine").read_text() == "mine"
    with open_beside_others(tmp_path / "mine", append=True) as file:
        file.write(b"!")
    assert (tmp_path / "mine").read_text() == "mine!"
