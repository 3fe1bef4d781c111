"""How long does the demo page take to answer, beside the model alone?

    python -m tests.benchmarks.bench_demo --model runs/quickstart

Serves the page as a user does, opens it in headless Chromium and asks about uploads of a generated
video (30 s of 1280 x 720, 25 frames a second, H.264) as a person does; `page` is the time from
pressing Find until the answer stands on the page. The baseline is `Grounder.encode` and
`Grounder.predict` on the same file in this process, the model loaded in both. `first` is the first
sentence about a video, `next` another one about the same video.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright

from tests.conftest import CHROMIUM_FLAGS
from trainer.inference.predict import Grounder

SECONDS, RATE, WIDTH, HEIGHT = 30, 25, 1280, 720
FIRST, NEXT = "a bright square drifts to the right", "a dark circle swings"


def film(path: Path) -> Path:
    """A square over a coarse moving pattern, so that no frame is like the one before."""
    random = np.random.default_rng(0)
    ground = np.kron(random.integers(0, 200, (90, 200, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(SECONDS * RATE):
            shift = i % (ground.shape[1] - WIDTH)
            picture = np.ascontiguousarray(ground[:HEIGHT, shift : shift + WIDTH])
            picture[200:400, i : i + 200] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def alone(model: Path, video: Path, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of the first and of the next answer without a page."""
    grounder = Grounder.from_pretrained(model)
    grounder.encoder.load()
    first, following = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        features = grounder.encode(video)
        grounder.predict(features, [FIRST])
        first.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        grounder.predict(features, [NEXT])
        following.append(time.perf_counter() - begin)
    return first, following


def ask(page: Page, sentence: str) -> float:
    """Seconds from pressing Find until the answer stands on the page."""
    page.get_by_label("What to look for").fill(sentence)
    begin = time.perf_counter()
    page.get_by_role("button", name="Find", exact=True).click()
    page.get_by_role("heading", name=f"“{sentence}”").wait_for()
    return time.perf_counter() - begin


def on_page(
    address: str, video: Path, repeats: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds of uploads until the player shows them, of first and of next answers."""
    uploads, first, following = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS
        )
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(address)
            page.locator("input[type=file]").wait_for(state="attached")
            begin = time.perf_counter()
            page.locator("input[type=file]").set_input_files(video)
            page.locator("video").wait_for()
            uploads.append(time.perf_counter() - begin)
            first.append(ask(page, FIRST))
            following.append(ask(page, NEXT))
            page.close()
        browser.close()
    return uploads, first, following


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--video", type=Path, help="instead of the generated one")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        video = given.video or film(Path(name) / "film.mp4")
        bare_first, bare_next = alone(given.model, video, given.repeats)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = psutil.Popen(
            [
                *(sys.executable, "-m", "launch.demo"),
                *("--model", str(given.model), "--port", str(port)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": name},
        )
        try:
            server.stdout.readline()
            loaded = server.memory_info().rss
            uploads, first, following = on_page(f"http://127.0.0.1:{port}/", video, given.repeats)
            used = server.memory_info().rss
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    print(f"{video.name}, {given.repeats} times, {os.cpu_count()} cores; median (worst), seconds")
    print(f"upload until it is shown   {told(uploads)}")
    for name, page, bare in (("first", first, bare_first), ("next", following, bare_next)):
        ratio = statistics.median(page) / statistics.median(bare)
        print(f"{name:5} page {told(page)}   model alone {told(bare)}   ratio {ratio:.2f}")
    print(f"server's memory: {loaded / 1e6:.0f} MB loaded, {used / 1e6:.0f} MB afterwards")


def told(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({max(seconds):.2f})"


if __name__ == "__main__":
    main()
