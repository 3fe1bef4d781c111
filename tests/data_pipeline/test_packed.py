"""Zips and arrays' files of anybody: what claims more than it holds, or hides more, is one line."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.packed import OtherContents, open_zip, read_array, read_member


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape: str, dtype: str = "'<f2'", body: bytes = b"\0" * 64) -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8", np.int64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_read_as_numpy_reads_it(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=(5, 3, 7)) * 9, dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "stored.npz", x=array, y=array[:1])
    np.savez_compressed(tmp_path / "deflated.npz", y=array[:1], x=array)
    for name in ("a.npy", "stored.npz", "deflated.npz"):
        read = read_array(tmp_path / name, ("absent", "x"))
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)
        assert np.load(tmp_path / "a.npy").strides == read.strides


def test_a_zip_without_the_key_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with pytest.raises(OtherContents, match=r"a\.npz: holds 'other' and not x or y"):
        read_array(tmp_path / "a.npz", ("x", "y"))


@pytest.mark.parametrize(
    "shape",
    [
        "((((",
        "(True, 4, 8)",
        "(100000000000000000000,)",
        "(0, 100000000000000000000)",
        "(-1, 4, 8)",
        "(16,)",  # fewer than are there
        "(64,)",  # more
        "32",
        "(" * 3000 + ")" * 3000,
        "(1e9, 2)",
        "None",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_claims_what_is_not_there_is_one_line(
    tmp_path: Path, shape: str, packed: bool
) -> None:
    path = tmp_path / ("a.npz" if packed else "a.npy")
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", header(shape))
    else:
        path.write_bytes(header(shape))
    with pytest.raises(InputError, match=r"a\.np[yz]") as caught:
        read_array(path, ("x",))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


@pytest.mark.parametrize("dtype", ["'|O'", "'nonsense'", "'V0'", "[('a', '|O')]", "7"])
def test_types_that_are_no_numbers_are_one_line(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "a.npy").write_bytes(header("(32,)", dtype))
    with pytest.raises(InputError, match=r"a\.npy: damaged, or another kind of file \("):
        read_array(tmp_path / "a.npy")


def test_every_cut_and_every_changed_byte_of_a_header_is_sound_or_one_line(tmp_path: Path) -> None:
    sound = npy(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    path = tmp_path / "a.npy"
    for place in range(128):
        for data in (sound[:place], sound[:place] + bytes([sound[place] ^ 5]) + sound[place + 1 :]):
            path.write_bytes(data)
            try:
                assert read_array(path).nbytes == 96
            except InputError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017 - many cases in one test


def bomb(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(header("(150000000,)", "'<f2'", b""))
        for _ in range(300):
            member.write(bytes(1_000_000))


def encrypted(path: Path) -> None:
    np.savez(path, x=np.zeros(4))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)


def other_method(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", npy(np.zeros(4)))


def unknown_method(path: Path) -> None:
    np.savez(path, x=np.zeros(4))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 10] = 77
    path.write_bytes(data)


def flipped(path: Path) -> None:
    np.savez_compressed(path, x=np.arange(100.0))
    data = bytearray(path.read_bytes())
    data[120] ^= 255
    path.write_bytes(data)


def many_names(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(26_000):
            archive.writestr(f"{number:0120d}", b"")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (bomb, "x.npy: unpacks to 300 MB; is it the right file"),
        (encrypted, "x.npy: is encrypted"),
        (other_method, "x.npy: is not packed by deflate"),
        (unknown_method, "x.npy: is not packed by deflate"),
        (flipped, "x.npy: damaged"),
        (many_names, "a.npz: lists 4 MB of contents"),
        (lambda path: path.write_bytes(b""), "a.npz: damaged, or another kind of file"),
        (lambda path: path.mkdir(), "a.npz: cannot be read: Is a directory"),
        (lambda path: None, "a.npz: cannot be read: No such file"),
    ],
)
def test_odd_zips_are_one_line(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    make(tmp_path / "a.npz")
    with pytest.raises(InputError) as caught:
        read_array(tmp_path / "a.npz", ("x",))
    assert says in str(caught.value)


def test_a_member_larger_than_what_it_is_for_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows", b"1234567890")
    with open_zip(tmp_path / "a.zip") as archive:
        assert read_member(archive, "rows", 10) == b"1234567890"
        with pytest.raises(InputError, match="rows: unpacks to"):
            read_member(archive, "rows", 9)
