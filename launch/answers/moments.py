"""How do moments reach a person: as a table on the terminal, as clips that are cut out?"""

from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipeline.errors import InputError
from data_pipeline.output import NotWritten
from data_pipeline.video.video import VideoFile
from trainer.inference.cutting import cut
from trainer.pictures.timeline import clock


def moments_table(query: str, caption: str, of_videos: bool = False) -> Table:
    """A table for the moments of a sentence, of one video or, with their names, of several."""
    table = Table(
        title=f"“{query}”",
        title_justify="left",
        title_style="bold",
        caption=caption or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    if of_videos:
        table.add_column("video", overflow="fold")
    for name in ("from", "to", "score"):
        table.add_column(name, justify="right")
    table.add_column("", min_width=20)
    return table


def add_moment(
    table: Table, start: float, end: float, score: float, *video: str, guess: str = ""
) -> None:
    """Add a row: its score as a bar of at most twenty letters, or that it is but a guess."""
    full = "█" * round(20 * min(max(score, 0.0), 1.0))
    says = Text(guess, style="dim") if guess else Text(full, style="blue")
    table.add_row(*video, clock(start), clock(end), f"{score:.2f}", says)


def cut_out(
    clip: Path, source: Callable[[], Path | VideoFile], start: float, end: float, console: Console
) -> None:
    """Cut a moment out of a video into the file `clip`, and tell how, or why that fails."""
    try:
        how = cut(source(), start, end, clip)
        console.print(f"clip      {clip} ({how})", soft_wrap=True)
    except NotWritten:
        raise
    except InputError as error:
        console.print(f"no clip   {error}", style="yellow", soft_wrap=True)
