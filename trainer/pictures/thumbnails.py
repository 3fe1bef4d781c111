"""A film strip: small still pictures at even times of a video."""

import base64
import io
from pathlib import Path

from PIL import Image

from data_pipeline.errors import InputError, told
from data_pipeline.video.video import VideoFile

KEY_FRAMES_ARE_ENOUGH = (
    20.0  # seconds between pictures; beyond, exact frames cost far more than they tell
)


def film_strip(
    video: Path | VideoFile, duration: float, count: int = 12, height: int = 72
) -> list[Image.Image]:
    """`count` pictures, the i-th from the middle of the i-th of `count` equal parts of the video.

    Past the last frame the last picture repeats. What is damaged shows what came before. Raises
    InputError for a video that cannot be used.
    """
    step = duration / count
    try:
        if not isinstance(video, VideoFile):
            video = VideoFile(video, damage="bear")
        size = (max(1, round(video.info.width * height / video.info.height)), height)
        instants = [min((i + 0.5) * step, video.info.duration) for i in range(count)]
        pictures = video.stills(instants, max(size), exact=step <= KEY_FRAMES_ARE_ENOUGH)
        return [Image.fromarray(picture).resize(size) for picture in pictures]
    except InputError:
        raise
    except Exception as error:  # whatever an odd video trips, here and in the libraries
        name = getattr(video, "name", video)
        raise InputError(f"{name}: cannot be read as a video ({told(error)})") from error


def still(video: Path, instant: float, height: int = 120) -> Image.Image:
    """What is shown at `instant` seconds, nearly; errors as of `film_strip`."""
    return film_strip(video, 2 * instant, count=1, height=height)[0]


def data_uri(image: Image.Image, quality: int = 72) -> str:
    """The picture as a JPEG in a data: address, for pages that need no other file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
