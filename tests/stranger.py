"""A stranger's session: from a clone to a model of twelve videos of one's own, in README's order.

    python -m tests.stranger FOLDER

It uses no option that README.md does not name. The environment that `make quickstart` would make is
the one that runs this; `sdst-train` is `python -m trainer.main`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 220)}
VIDEOS, SECONDS, RATE = 12, 20, 5


def film(path: Path, shown: tuple[int, int, int], start: int, end: int) -> None:
    """A grey video in which a square of one colour stands from `start` to `end` seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for frame in range(SECONDS * RATE):
            picture = np.full((72, 96, 3), 110 + frame % 3, np.uint8)
            if start * RATE <= frame < end * RATE:
                picture[16:56, 28:68] = shown
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def annotate(folder: Path) -> None:
    """Twelve videos, eight of them for training, with a sentence for each."""
    rows: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
    for number in range(VIDEOS):
        colour = list(COLOURS)[number % 3]
        start = 2 * (number * 5 % 6)
        film(folder / "videos" / f"own{number}.mp4", COLOURS[colour], start, start + 6)
        row = {
            "qid": number,
            "query": f"A {colour} square is there.",
            "vid": f"own{number}",
            "duration": float(SECONDS),
            "relevant_windows": [[start, start + 6]],
        }
        rows["train" if number < 8 else "val"].append(row)
    for split, of_split in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in of_split)
        (folder / f"{split}.jsonl").write_text(text)


def session(folder: Path) -> Path:
    """Do all of it in `folder`; returns the clone, in which everything lies."""
    clone = folder / "sdst"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    readme = (clone / "README.md").read_text()

    def run(*words: str) -> None:
        for word in words:
            if word.startswith("--") and word not in readme:
                raise AssertionError(f"README.md does not name {word}")
        environment = os.environ | {"PYTHONPATH": str(clone)}
        subprocess.run([sys.executable, "-m", *words], cwd=clone, env=environment, check=True)

    run("launch.init", "mine/")
    annotate(clone / "mine")
    for split in ("train", "val"):
        run(
            *("launch.extract", "--config", "configs/extract/quickstart.yaml"),
            *("--annotations", f"mine/{split}.jsonl", "--videos", "mine/videos"),
            *("--output", f"mine/features/{split}", "--split", split),
        )
    own = clone / "mine" / "own.yaml"
    for name, queries in (("first", 10), ("second", 5)):
        own.write_text(re.sub(r"queries: \d+", f"queries: {queries}", own.read_text()))
        run("trainer.main", "--config", "mine/own.yaml", "--name", name)
    asked = ["launch.predict", "mine/videos/own9.mp4", "A red square is there."]
    run(*asked, "--model", "runs/first", "--plot", "found.png")
    run("launch.compare", "runs/first", "runs/second")
    read_along(clone)
    return clone


def read_along(clone: Path) -> None:
    """Run trainer/notebook.ipynb, cell after cell, on the videos of this session."""
    notebook = json.loads((clone / "trainer" / "notebook.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    own = {
        "config": "mine/own.yaml",
        "features": "mine/features/val",
        "annotations": "mine/val.jsonl",
        "video": "mine/videos/own9.mp4",
        "sentences": ["A red square is there.", "A blue square is there."],
    }
    assert set(re.findall(r"(?m)^(\w+) = ", cells[0])) == set(own)
    cells[0] = "\n".join(f"{name} = {value!r}" for name, value in own.items())
    checks = [
        "assert status == 0 and len(table) and len(shapes) == 4 and batch.video.shape[0] == 4",
        "assert scores['R1@0.5'][0] == 0.0 and '<div' in found._repr_html_()",
    ]
    program = "\n".join([*cells, *checks])
    environment = os.environ | {"PYTHONPATH": str(clone)}
    subprocess.run([sys.executable, "-c", program], cwd=clone, env=environment, check=True)


if __name__ == "__main__":
    print(session(Path(sys.argv[1])))
