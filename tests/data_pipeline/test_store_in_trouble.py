"""What a store on a bad day gives back is what was stored, and what it took is whole."""

import hashlib
import random
from collections.abc import Iterator

import pytest

from data_pipeline.storage import Location, NotFound
from tests.store_in_trouble import TROUBLES, Proxy, trouble

SHARE = 0.05


@pytest.fixture
def troubled(
    bucket: str, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Proxy]]:
    """A new bucket, reached through a proxy that makes trouble."""
    s3fs = pytest.importorskip("s3fs")
    with trouble(object_store, SHARE) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        s3fs.S3FileSystem.clear_instance_cache()
        yield bucket, proxy
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.timeout(300)
def test_files_of_a_store_in_trouble_are_the_same_bytes(troubled: tuple[str, Proxy]) -> None:
    folder, proxy = Location(troubled[0]) / "set", troubled[1]
    draw = random.Random(1)
    files = {f"{number:03d}": draw.randbytes(2000 + number) for number in range(30)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    assert folder.names() == sorted(files)
    for name, data in files.items():
        assert (folder / name).read_bytes() == data
        assert (folder / name).read_range(700, 900) == data[700:1600]
        assert (folder / name).size() == len(data)
    with pytest.raises(NotFound):
        (folder / "none").read_bytes()
    assert set(proxy.met) == set(TROUBLES), proxy.met


@pytest.mark.timeout(300)
def test_large_files_appear_whole_in_a_store_in_trouble(troubled: tuple[str, Proxy]) -> None:
    folder = Location(troubled[0]) / "set"
    data = random.Random(2).randbytes(2**20) * 34  # three parts
    for number in range(2):
        place = folder / f"{number}.tar"
        place.write_bytes(data)
        assert place.sha256() == hashlib.sha256(data).hexdigest()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("met", TROUBLES)
@pytest.mark.parametrize(
    "kind", [("POST", "uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId")]
)
def test_whatever_an_upload_meets_the_file_is_there_at_the_end(
    troubled: tuple[str, Proxy], kind: tuple[str, str], met: str
) -> None:
    folder, proxy = Location(troubled[0]), troubled[1]
    proxy.share, proxy.planned = 0.0, {kind: [met]}
    part = bytes(range(256)) * 2**16
    data = part + part
    with (folder / "a.tar").create() as file:
        file.write(part)
        file.write(part)
        file.commit()
    assert proxy.planned == {kind: []}
    assert (folder / "a.tar").read_bytes() == data
