"""What does a sequence of pictures show at given instants? As a video of them would."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.video.opening import MAX_PIXELS, VideoError
from data_pipeline.video.video import PIECE_BYTES, clip_count

SUFFIXES = ("jpg", "jpeg", "png", "webp")
FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures in order, `rate` of them a second; `name` stands in messages."""

    data: Sequence[bytes]
    rate: float
    name: str

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.data) / self.rate

    def clips(
        self, clip_length: float, frames_per_clip: int, image_size: int, crop: float | None
    ) -> Iterator[NDArray[np.uint8]]:
        """Pieces (n, T, H, W, 3) of clips, as `VideoFile.clips` gives them.

        Raises VideoError for a picture that cannot be decoded.
        """
        count = clip_count(self.duration, clip_length)
        instants = (np.arange(count * frames_per_clip) + 0.5) * clip_length / frames_per_clip
        shown = np.minimum((instants * self.rate + 1e-6).astype(int), len(self.data) - 1)
        piece = max(1, PIECE_BYTES // (frames_per_clip * image_size**2 * 3)) * frames_per_clip
        frames: list[NDArray[np.uint8]] = []
        last, picture = -1, np.empty(0, np.uint8)
        for position, number in enumerate(shown.tolist()):
            if number != last:
                last, picture = number, self._decode(number, image_size, crop)
            frames.append(picture)
            if len(frames) == piece or position + 1 == len(shown):
                yield np.stack(frames).reshape(-1, frames_per_clip, image_size, image_size, 3)
                frames = []

    def _decode(self, number: int, size: int, crop: float | None) -> NDArray[np.uint8]:
        """(size, size, 3) RGB."""
        try:
            with Image.open(io.BytesIO(self.data[number]), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise VideoError(f"{self.name}: picture {number + 1} is too large", "damaged")
                box = None
                if crop is not None:
                    side = min(image.width, image.height) * crop
                    left, top = (image.width - side) / 2, (image.height - side) / 2
                    box = (left, top, left + side, top + side)
                small = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box)
            return np.asarray(small)
        except VideoError:
            raise
        except Exception as error:  # Pillow raises whatever a damaged file trips
            cause = " ".join(str(error).split())[:100]
            which = f"picture {number + 1} of {len(self.data)}"
            raise VideoError(
                f"{self.name}: {which} cannot be decoded ({cause})", kind="damaged"
            ) from error
