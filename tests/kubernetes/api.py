"""An API of Kubernetes in small: objects by their paths, patched over TLS by one account."""

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from launch.release import path_of

NAMESPACE, TOKEN = "team", "a-token"
MEDIA = "application/merge-patch+json"


class Api:
    """What it holds, what was patched, and how it is with the server.

    Attributes:
        objects: by path
        patched: paths, in the order in which they were patched
        troubles: statuses of the next answers, before any is a real one
        asked: set once anybody has asked
        port: where it listens
    """

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.patched: list[str] = []
        self.troubles: list[int] = []
        self.asked = threading.Event()
        self.port = 0

    def add(self, name: str, spec: Any = None) -> str:
        """Make a suspended object, as `release` names it; its path."""
        path = path_of(name).format(namespace=NAMESPACE)
        self.objects[path] = {"metadata": {"labels": None}, "spec": spec or {"suspend": True}}
        return path

    def answer(self, request: BaseHTTPRequestHandler, body: Any) -> tuple[int, Any]:
        self.asked.set()
        if request.headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, {}
        if self.troubles:
            return self.troubles.pop(0), {}
        if request.path not in self.objects:
            return 404, {}
        if body is not None:
            if request.headers["Content-Type"] != MEDIA:
                return 415, {}
            self.patched.append(request.path)
            merge(self.objects[request.path], body)
        return 200, self.objects[request.path]


def merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, dict):
            into[key] = into.get(key) or {}
            merge(into[key], value)
        else:
            into[key] = value


@contextmanager
def serving(account: Path, address: str = "127.0.0.1") -> Iterator[Api]:
    """An API that listens at an address; `account` gets what a pod finds of its account."""
    api = Api()
    account.mkdir()
    key = account.with_name(f"{account.name}.key")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=api", "-addext", f"subjectAltName=IP:{address}"),
            *("-keyout", key, "-out", account / "ca.crt"),
        ],
        check=True,
        capture_output=True,
    )
    (account / "token").write_text(f"{TOKEN}\n")
    (account / "namespace").write_text(NAMESPACE)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(None)

        def do_PATCH(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: Any) -> None:
            status, found = api.answer(self, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    api.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
