"""How are files of videos named, and which one is that of a video?"""

import os

from data_pipeline.storage import Location, Source

_COMMON = "mp4 mkv webm avi mov m4v mpg mpeg ts m2ts mts flv wmv 3gp ogv vob"
_OTHERS = """
3g2 3gp2 3gpp amv apng apv asf av1 avc avif avs avs2 avs3 bik bmv cavs cdxl cine dav dif divx dnxhd
dnxhr drc dv dvd dvr-ms evc evo f4v flc fli flm gif gxf 264 265 266 h261 h263 h264 h265 h266 h26l
hevc ifv insv ipu isma ism ismv ivf ivr kux lrv m1v m2p m2t m2v m4p mj2 mjpeg mjpg mk3d mod mods
moflex mp4v mpe mpv mpv2 mvi mxf mxg nsv nut obu ogg ogm ogx pdv ps psp qt r3d rcv rec rm rmvb roq
ser smk swf thp tod tp trp ty ty+ usm vc1 vc2 viv vro vvc wm wtv xl xmv xvid y4m yop
"""
SUFFIXES = tuple(f".{name}" for name in f"{_COMMON} {_OTHERS}".split())
"""How files are named that FFmpeg opens as videos, the common ones first; in any case."""


def is_video(name: str) -> bool:
    """Whether a file of this name is one of a video."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def find_video(folder: Source, vid: str) -> Location | None:
    """The file `<vid>.<a video's suffix>`, or `<vid>` that has one, of a folder; None if none is.

    Of several, the one whose suffix comes first in `SUFFIXES`. An object store, where a folder's
    list may be long, is asked for suffixes in capitals, in small letters and with one capital.
    """
    place = Location(folder)
    likely = [suffix for suffix in SUFFIXES if suffix[1:] in _COMMON.split() or not place.local]
    forms = [form for suffix in likely for form in (suffix, suffix.upper())]
    forms += [f".{suffix[1:].capitalize()}" for suffix in likely]
    for suffix in (*([""] if is_video(vid) else []), *forms):
        if (place / f"{vid}{suffix}").is_file():
            return place / f"{vid}{suffix}"
    if place.local is None:
        return None
    *above, stem = vid.split("/")
    place = Location(place.local.joinpath(*above))
    names = place.names() if place.is_dir() else []
    found = [name for name in names if os.path.splitext(name)[0] == stem and is_video(name)]
    found.sort(key=lambda name: SUFFIXES.index(os.path.splitext(name)[1].lower()))
    return next((place / name for name in found if (place / name).is_file()), None)
