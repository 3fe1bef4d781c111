"""A film strip: small still pictures at even times of a video."""

import base64
import io
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from PIL import Image

from data_pipeline.errors import InputError, told
from data_pipeline.video.video import VideoFile

KEY_FRAMES_ARE_ENOUGH = (
    20.0  # seconds between pictures; beyond, exact frames cost far more than they tell
)


def film_strip(path: Path, duration: float, count: int = 12, height: int = 72) -> list[Image.Image]:
    """`count` pictures, the i-th from the middle of the i-th of `count` equal parts of the video.

    Past the last frame the last picture repeats. Raises InputError for a video that cannot be used.
    """
    try:
        return _film_strip(path, duration, count, height)
    except InputError:
        raise
    except Exception as error:  # whatever an odd video trips, here and in the libraries
        raise InputError(f"{path}: cannot be read as a video ({told(error)})") from error


def _film_strip(path: Path, duration: float, count: int, height: int) -> list[Image.Image]:
    strip: list[Image.Image] = []
    if duration / count > KEY_FRAMES_ARE_ENOUGH:
        strip = _near_key_frames(path, duration, count, height)
    if not strip:
        video = VideoFile(path)
        size = (max(1, round(video.info.width * height / video.info.height)), height)
        within = min(duration, video.info.duration)
        pieces = [*video.clips(duration / count, 1, max(size), 0.0, within)]
        if len(np.concatenate(pieces)) < count:  # the last picture, for what lies past the end
            pieces += video.clips(1.0, 1, max(size), max(0.0, within - 1e-3), within)
        strip = [Image.fromarray(clip[0]).resize(size) for piece in pieces for clip in piece]
    return strip + strip[-1:] * (count - len(strip))


def _near_key_frames(path: Path, duration: float, count: int, height: int) -> list[Image.Image]:
    """The strip from key frames alone; empty for a file that cannot seek to any."""
    strip: list[Image.Image] = []
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise InputError(f"{path}: has no video stream; give a file with pictures")
        container.streams.video[0].codec_context.skip_frame = "NONKEY"
        for i in range(count):
            frame = _frame_at(container, (i + 0.5) * duration / count)
            if frame is not None:
                strip.append(_upright(frame, height))
            elif strip:
                strip.append(strip[-1])
    return strip


def _frame_at(container: InputContainer, seconds: float) -> av.VideoFrame | None:
    """The first frame at or after `seconds`; the last frame before it if the video ends earlier."""
    stream = container.streams.video[0]
    if stream.time_base is None:
        return next(container.decode(stream), None)
    begin = (container.start_time or 0) / av.time_base  # where a player's clock begins
    target = round((begin + seconds) / stream.time_base)
    container.seek(target, stream=stream)
    frame = None
    for frame in container.decode(stream):
        if frame.pts is not None and frame.pts >= target:
            break
    return frame


def _upright(frame: av.VideoFrame, height: int) -> Image.Image:
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    if frame.rotation:
        image = image.rotate(frame.rotation, expand=True)  # both count anticlockwise
    width = max(1, round(image.width * height / image.height))
    return image.resize((width, height), Image.Resampling.BILINEAR)


def data_uri(image: Image.Image, quality: int = 72) -> str:
    """The picture as a JPEG in a data: address, for pages that need no other file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
