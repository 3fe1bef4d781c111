"""A proxy before an object store that makes of it what stores are on a bad day.

Of each kind of trouble a fixed part of the requests is hit, drawn by a seed: an error of the server
(500), a request to slow down (503), an answer that comes late, a connection that is cut in the
middle of the answer, and one that is cut before the store has heard.
"""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TROUBLES = ("error", "slow down", "late", "cut", "unheard")
LATE = 0.3
"""Seconds by which a late answer comes later."""
OF_A_CONNECTION = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Proxy(ThreadingHTTPServer):
    """Passes on to the store at `behind`; `share` of the requests meet each trouble."""

    daemon_threads = True

    def __init__(self, behind: str, share: float, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.share = urlsplit(behind).netloc, share
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.requests = 0
        self.planned: dict[tuple[str, str], list[str]] = {}
        """What the next requests of a command, with a word in their path, will meet."""
        self.met: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    def draw(self, command: str, path: str) -> str | None:
        """The trouble of the next request: the one that was planned for its kind, or chance's."""
        with self._lock:
            for kind in self.planned:
                if command == kind[0] and kind[1] in path and self.planned[kind]:
                    self.requests += 1
                    return self.planned[kind].pop(0)
            self.requests += 1
            place = self._random.random() / self.share if self.share else len(TROUBLES)
            trouble = TROUBLES[int(place)] if place < len(TROUBLES) else None
            if trouble:
                self.met[trouble] += 1
            return trouble

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are none of ours."""


class Handler(BaseHTTPRequestHandler):
    """One request, passed on."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        body = self._body()
        trouble = self.server.draw(self.command, self.path)
        if trouble == "unheard":
            self.close_connection = True
            return
        if trouble in ("error", "slow down"):
            status, code = (500, "InternalError") if trouble == "error" else (503, "SlowDown")
            text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml")], text)
            return
        store = http.client.HTTPConnection(self.server.behind, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in OF_A_CONNECTION}
        store.request(self.command, self.path, body, headers)
        answer = store.getresponse()
        given = answer.read()
        store.close()
        if trouble == "late":
            time.sleep(LATE)
        self._answer(answer.status, answer.getheaders(), given, cut=trouble == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of what HEAD tells of
            elif name.lower() not in OF_A_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def trouble(behind: str, share: float, seed: int = 0) -> Iterator[Proxy]:
    """A proxy before the store at `behind`, for as long as this lasts."""
    proxy = Proxy(behind, share, seed)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
