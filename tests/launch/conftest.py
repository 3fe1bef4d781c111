"""A video for the commands, and windows of a browser for the demo page."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import pytest


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Six seconds that grow brighter."""
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(30):
            picture = np.full((48, 64, 3), 5 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


@pytest.fixture
def open_page(server: Any, chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens the demo that `server` of the test's file serves, in a window of its own;
    `page.hosts` are all that it asked for anything."""
    contexts = []

    def open_it(**options: Any) -> Any:
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.hosts = set()
        page.on("request", lambda request: page.hosts.add(urlsplit(request.url).netloc))
        page.goto(server.address)
        page.locator("input[type=file]").wait_for(state="attached")
        return page

    yield open_it
    for context in contexts:
        context.close()
