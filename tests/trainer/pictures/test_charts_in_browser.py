"""Charts on a page as people read them: by pointer, by key, in the dark, on a phone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.pictures.report import write_report

HOSTILE = "</script><img src=x onerror=owned()> $a$ datum.x"
EPOCHS = 12


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with the curves of a loss, of two metrics, and of something with a hostile name."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.json").write_text(json.dumps({"metrics": {"mAP": 50.0}}))
    records = [
        {"kind": kind, "step": 10 * epoch, "epoch": epoch}
        | {"loss": 24 / epoch, HOSTILE: epoch, "mAP": 5.0 * epoch, "mIoU": 60.0}
        for epoch in range(1, EPOCHS + 1)
        for kind in ("train", "eval")
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return write_report(folder, [], None)


@pytest.fixture
def open_page(page_path: Path, chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens the report without a network; `page.said` is what it complained of or asked for."""
    contexts = []

    def open_it(**options: Any) -> Any:
        contexts.append(chromium.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.said.append(request.url))
        page.goto(page_path.as_uri())
        page.locator("[data-chart]").first.wait_for(state="detached")
        page.locator(".chart svg").last.wait_for(state="attached")
        return page

    yield open_it
    for context in contexts:
        context.close()


def chart(page: Any, words: str) -> Any:
    """The chart that is described by words which begin so."""
    found = page.locator(f'.chart[aria-label^="{words}"]')
    found.scroll_into_view_if_needed()
    return found


def point(page: Any, found: Any, x: float, y: float) -> None:
    """Move the pointer to a place in a chart, given as shares of its width and height."""
    box = found.bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


def told(page: Any) -> str:
    page.locator("#told.visible").wait_for()
    return " ".join(page.locator("#told").inner_text().split())


def axis(found: Any) -> list[float]:
    """Least and greatest number on the axis of x."""
    texts = found.locator(".role-axis").nth(1).locator(".role-axis-label text").all_text_contents()
    numbers = sorted(float(text.replace("\N{MINUS SIGN}", "-")) for text in texts)
    return [numbers[0], numbers[-1]]


def settle(found: Any, *, other_than: list[float]) -> list[float]:
    for _ in range(100):
        if axis(found) != other_than:
            break
        found.page.wait_for_timeout(50)
    return axis(found)


def test_the_values_of_all_lines_stand_beside_the_pointer(open_page: Callable[..., Any]) -> None:
    page = open_page()
    metrics = chart(page, "Validation metrics")
    point(page, metrics, 0.5, 0.5)
    first = told(page)
    assert first.startswith("epoch 6 ")
    assert "mAP 30 mIoU 60" in first
    point(page, metrics, 0.97, 0.5)
    page.get_by_text("epoch12mAP60mIoU60").wait_for()
    page.mouse.move(0, 0)
    page.locator("#told").wait_for(state="hidden")


def test_ctrl_and_the_wheel_zoom_dragging_moves_and_a_double_click_shows_all(
    open_page: Callable[..., Any],
) -> None:
    page = open_page()
    metrics = chart(page, "Validation metrics")
    whole = axis(metrics)
    point(page, metrics, 0.6, 0.5)
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 60)
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") == before + 60  # scrolling past a chart is not caught by it
    assert axis(metrics) == whole
    point(page, metrics, 0.6, 0.5)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -500)
    page.keyboard.up("Control")
    near = settle(metrics, other_than=whole)
    assert whole[0] < near[0] < near[1] < whole[1]
    page.mouse.down()
    point(page, metrics, 0.4, 0.5)
    page.mouse.up()
    moved = settle(metrics, other_than=near)
    assert moved[0] > near[0]
    assert moved[1] > near[1]
    page.mouse.dblclick(*centre(metrics))
    assert settle(metrics, other_than=moved) == whole


def centre(found: Any) -> tuple[float, float]:
    box = found.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_keys_read_values_and_zoom(open_page: Callable[..., Any]) -> None:
    page = open_page()
    metrics = chart(page, "Validation metrics")
    metrics.focus()
    for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("End", 12), ("ArrowLeft", 11)):
        page.keyboard.press(key)
        assert told(page) == f"epoch {place} mAP {5 * place} mIoU 60"
    assert page.locator("#told").get_attribute("role") == "status"  # read out when it changes
    whole = axis(metrics)
    page.keyboard.press("+")
    page.keyboard.press("+")
    near = settle(metrics, other_than=whole)
    assert near[0] > whole[0]
    page.keyboard.press("0")
    assert settle(metrics, other_than=near) == whole
    page.keyboard.press("Escape")
    page.locator("#told").wait_for(state="hidden")


def test_keys_reach_every_value_wherever_the_page_is_scrolled_to(
    open_page: Callable[..., Any],
) -> None:
    page = open_page(viewport={"width": 390, "height": 500})
    loss = chart(page, "Loss")
    loss.focus()
    page.evaluate("scrollTo(0, 0)")
    read = []
    for _ in range(EPOCHS):
        page.keyboard.press("ArrowRight")
        read.append(told(page))
    assert read == [f"step {10 * epoch} loss {24 / epoch:.4g}" for epoch in range(1, EPOCHS + 1)]


def test_a_name_is_text_wherever_it_stands(open_page: Callable[..., Any]) -> None:
    page = open_page()
    hostile = page.locator(".pieces .chart").first
    hostile.scroll_into_view_if_needed()
    hostile.focus()
    page.keyboard.press("End")
    assert told(page) == f"step {10 * EPOCHS} {HOSTILE} {EPOCHS}"
    assert page.get_by_role("heading", name=HOSTILE).is_visible()
    assert page.locator("img").count() == 0
    assert page.said == [page.url]  # neither a complaint nor a request


def test_a_script_that_gets_into_the_page_does_not_run(page_path: Path, chromium: Any) -> None:
    attack = (
        "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
    )
    foreign = page_path.with_name("foreign.html")
    foreign.write_text(page_path.read_text().replace("<main>", f"<main>{attack}"))
    page = chromium.new_page()
    page.goto(foreign.as_uri())
    page.locator(".chart svg").first.wait_for()
    assert page.title() != "owned"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    open_page: Callable[..., Any],
    accessibility_faults: Callable[[Any], list[str]],
    scheme: str,
    width: int,
) -> None:
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    chart(page, "Loss").focus()
    page.keyboard.press("End")
    assert told(page) == "step 120 loss 2"
    assert not accessibility_faults(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    box = page.locator("#told").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_a_chart_follows_light_and_dark_while_it_is_open(open_page: Callable[..., Any]) -> None:
    page = open_page(color_scheme="light")
    line = page.locator(".chart .mark-line path").first
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours.append(line.evaluate("path => getComputedStyle(path).stroke"))
    assert colours == ["rgb(35, 100, 170)", "rgb(116, 179, 242)"]


def test_where_no_scripts_run_a_chart_stands_there_in_words(page_path: Path, chromium: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_path.as_uri())
    assert page.get_by_text("Loss over step. loss: from 24 to 2.").is_visible()
    context.close()


def test_a_page_weighs_little(page_path: Path) -> None:
    assert page_path.stat().st_size < 1_200_000
