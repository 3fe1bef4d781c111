"""What does a person see of what was found in an archive? A page of moments, in their order."""

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data_pipeline.errors import InputError, told
from trainer.archive.archive import Answer, Moment
from trainer.pictures.examples import draw_timeline, video_of
from trainer.pictures.pages import write_page
from trainer.pictures.thumbnails import data_uri, film_strip, still
from trainer.pictures.timeline import Timeline

LOG = logging.getLogger(__name__)

STRIPS_KEPT = 64  # of videos, drawn once for all sentences that they answer


def write_search_page(
    path: Path, index: str, answers: Sequence[Answer], shown: Sequence[Sequence[Moment]]
) -> Path:
    """Write the page of the moments that are shown of each answer.

    A video whose file is not there has no pictures, and says so.
    """
    strips = lru_cache(STRIPS_KEPT)(_strip)
    return write_page(
        "archive.html",
        path,
        index=index,
        answers=[
            {
                "query": answer.query,
                "not_found": answer.not_found,
                "damaged": len(answer.damaged),
                "found": [draw(moment, path, strips) for moment in moments],
            }
            for answer, moments in zip(answers, shown, strict=True)
        ],
    )


def file_of(video: str, folder: str | None) -> Path:
    """The file of a video of an archive; InputError where it is not known or not there."""
    if folder is None:
        raise InputError(
            f"{video}: the index does not know where the videos lie; launch.index --add its set "
            "with --videos FOLDER"
        )
    return video_of(Path(folder), video)


def pictured(moment: Moment) -> dict[str, Any]:
    """A moment with the address of a picture from its middle, or why there is none."""
    about = moment.to_row() | {"picture": None, "fault": None}
    try:
        middle = (moment.start + moment.end) / 2
        about["picture"] = data_uri(still(file_of(moment.video, moment.videos), middle))
    except Exception as error:  # an odd video costs its own picture
        LOG.debug("no picture: %s", told(error))
        about["fault"] = "no picture"
    return about


def draw(moment: Moment, page: Path, strips: Any) -> dict[str, Any]:
    """What `timeline.html` draws of a moment, with pictures of its video and a link to play it."""
    line = Timeline("", moment.duration, ((moment.start, moment.end, moment.score),))
    drawn: dict[str, Any] = {"name": moment.video, "strip": [], "fault": None, "play": None}
    try:
        file = file_of(moment.video, moment.videos)
        drawn["strip"] = strips(file, moment.duration)
        beside = os.path.relpath(file.resolve(), page.resolve().parent)
        drawn["play"] = f"{quote(beside)}#t={moment.start:.3f},{moment.end:.3f}"
    except Exception as error:  # an odd video costs its own pictures, not the page
        drawn["fault"] = told(error)
    return draw_timeline(line) | drawn


def _strip(file: Path, duration: float) -> list[str]:
    return [data_uri(picture) for picture in film_strip(file, duration)]
