"""Which requests reach the demo's server, and what becomes of those that no page of ours sends?"""

import asyncio
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs the group `demo`")

from launch import demo
from launch.page.server import CALL, MOST_CALL, Guard

SOUND = {
    "fn_index": 2,
    "data": [None, "a dog"],
    "event_data": {"key": "x"},
    "trigger_id": 7,
    "session_hash": "ab12cd34ef",
}


def sent(
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    path: str = CALL,
    parts: int = 1,
    method: str = "POST",
) -> tuple[int, str, bytes | None]:
    """Status and text of the answer, and the body that the server behind the guard got, if any."""
    size = -(-len(body) // parts) or 1
    pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    waiting: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    waiting[-1]["more_body"] = False
    answer: list[dict[str, Any]] = []
    got: list[bytes] = []

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        answer.append(message)

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        read = b""
        while True:
            message = await receive()
            read += message["body"]
            if not message["more_body"]:
                break
        got.append(read)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    given = {"host": "127.0.0.1:7860", **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    asyncio.run(Guard(behind, calls={0: 0, 1: 0, 2: 2})(scope, receive, send))
    text = b"".join(m.get("body", b"") for m in answer if m["type"] == "http.response.body")
    return answer[0]["status"], text.decode(), got[0] if got else None


def test_a_call_of_the_page_arrives_as_it_was_sent() -> None:
    body = json.dumps(SOUND).encode()
    for parts in (1, 5):
        assert sent(body, parts=parts) == (200, "", body)


def test_the_rest_of_a_call_that_is_too_long_is_not_read() -> None:
    body = json.dumps(SOUND | {"data": [None, "x" * MOST_CALL]}).encode() * 100
    status, text, got = sent(body, parts=1000)
    assert (status, got) == (413, None)
    assert "too long" in text


@pytest.mark.parametrize(
    "change",
    [
        {"fn_index": 99},
        {"fn_index": -1},
        {"fn_index": None},
        {"fn_index": True},
        {"fn_index": "2"},
        {"fn_index": 2.5},
        {"fn_index": 10**400},
        {"data": None},
        {"data": "text"},
        {"data": []},
        {"data": [None, "a", "b"]},
        {"data": [None, 5]},
        {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "a"]},
        {"event_data": [1]},
        {"event_data": "example"},
        {"session_hash": None},
        {"session_hash": ["x"]},
        {"session_hash": "../x"},
        {"session_hash": "x" * 10_000},
        {"trigger_id": "7"},
        {"trigger_id": 10**20},
        {"batched": True},
        {"event_id": "x"},
    ],
)
def test_a_malformed_call_is_refused_with_a_sentence(change: dict[str, Any]) -> None:
    status, text, got = sent(json.dumps(SOUND | change).encode())
    assert (status, got) == (400, None)
    assert json.loads(text)["detail"].endswith(".")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"5",
        b"null",
        b"{",
        b'{"fn_index": 1e400}',
        b'{"fn_index": NaN}',
        b"[" * 100_000,
        b'{"fn_index": ' + b"9" * 5000 + b"}",
        b'{"data": ["\\ud800"]}',
    ],
)
def test_what_is_no_call_is_refused(body: bytes) -> None:
    assert sent(body)[::2] == (400, None)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"origin": "http://127.0.0.1:7860"}, 200),
        ({"origin": "http://evil.example"}, 404),
        ({"origin": "http://127.0.0.1:7861"}, 404),
        ({"origin": "http://127.0.0.1"}, 404),
        ({"origin": "null"}, 404),
        ({"origin": ""}, 404),
        ({"origin": "http://[", "host": "["}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://demo.example"}, 200),  # by a proxy
        ({"sec-fetch-site": "cross-site"}, 404),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:7860"}, 404),
        ({"sec-fetch-site": "none"}, 404),
        ({"host": "Demo.Example:80", "origin": "http://demo.example:80"}, 200),
    ],
)
def test_a_page_of_another_site_can_neither_upload_nor_ask(
    headers: dict[str, str], status: int
) -> None:
    assert sent(json.dumps(SOUND).encode(), headers)[0] == status
    assert sent(b"a video", headers, "/videos")[0] == status


def test_nothing_but_the_pages_own_paths_is_answered() -> None:
    for method, path in (("POST", "/gradio_api/upload"), ("PUT", "/videos"), ("GET", CALL)):
        assert sent(method=method, path=path)[::2] == (404, None)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_killed_servers_left_is_swept_and_what_others_use_is_not(temporary: Path) -> None:
    for name in ("killed", "serving", "foreign", "beginning"):
        folder = temporary / f"{demo.PREFIX}{name}"
        folder.mkdir()
        (folder / "upload.mp4").write_text(name)
        if name != "beginning":
            (folder / ".lock").touch()
    (temporary / "mine").mkdir()
    (temporary / "mine" / ".lock").touch()
    (temporary / f"{demo.PREFIX}link").symlink_to(temporary / "mine")
    if os.getuid() == 0:
        os.chown(temporary / f"{demo.PREFIX}foreign", 12345, 12345)
    with open(temporary / f"{demo.PREFIX}serving" / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with demo.own_folder() as folder:
            left = {path.name.removeprefix(demo.PREFIX) for path in temporary.iterdir()}
            assert left == {
                *({"foreign"} if os.getuid() == 0 else ()),
                *("serving", "beginning", "mine", "link"),
                folder.name.removeprefix(demo.PREFIX),
            }
            with demo.own_folder() as second:  # beside it
                assert folder.is_dir()
                assert second.is_dir()
        assert not folder.exists()
    assert (temporary / "mine" / ".lock").is_file()
