"""What a file says of its own end is followed for so long and no longer."""

from pathlib import Path

import pytest

from data_pipeline.video import ends

BOX = b"\0\0\0\x08free"
PARTS = {"mov,mp4,m4a,3gp,3g2,mj2": BOX, "avi": b"RIFF\0\0\0\0", "matroska,webm": b"\xec\x80"}


@pytest.mark.parametrize("container", PARTS)
def test_a_file_of_more_parts_than_are_followed_says_nothing_of_its_end(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "parts"
    path.write_bytes(PARTS[container] * 9)
    assert ends.is_whole(path, container)
    monkeypatch.setattr(ends, "MOST_PARTS", 8)
    assert not ends.is_whole(path, container)
    assert ends.missing_share(path, container) == 0


def test_the_share_that_is_not_there_is_that_behind_the_end(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(BOX + (1000).to_bytes(4, "big") + b"mdat" + bytes(742))
    assert ends.missing_share(path, "mov,mp4,m4a,3gp,3g2,mj2") == pytest.approx(250 / 1008)
