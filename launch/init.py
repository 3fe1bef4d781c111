"""Write an experiment of your own to begin with, and say the next three commands.

    python -m launch.init mine/

The folder gets own.yaml, with comments, and has a place for videos and annotations. Nothing that is
there is written over.
"""

import shlex
import sys
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.output import check_folder, make_folder, write_text
from trainer.cli import command, make_parser, parse, terminal, to_yaml

ROOT = Path(__file__).resolve().parent.parent

OWN = """\
# An experiment of your own; every key is a flag too: --epochs 20. All keys: sdst-train --help
#
# {folder}/videos/       your videos
# {folder}/train.jsonl   one sentence a line, with where its video shows it, in seconds:
#   {{"qid": 1, "query": "A dog runs.", "vid": "beach", "duration": 93.5,
#    "relevant_windows": [[26, 36]]}}   (on one line)
# {folder}/val.jsonl     the same for other videos, which choose the best epoch and are reported
{name}
epochs: 30                # passes over the sentences; few sentences need more of them
data:
{places}
  batch_size: 8           # sentences of a step; not more than train.jsonl has
model:                    # widths and layers are those of the features
  video_width: 512
  text_width: 384
  width: 128
  layers: [-1, -2, -3, -4]
  queries: 10             # most windows that are proposed for a sentence
  input_dropout: 0.1
loss:
  weights: {{saliency: 1.0, alignment_batch: 2.0, alignment_layers: 0.2}}
optim:
  lr: 1.0e-3
  warmup: 50
  schedule: cosine
eval:
  metric: [R1@0.5, mAP]   # what the kept epoch maximises
{videos}
"""


@command
def main(args: list[str] | None = None) -> None:
    """Make the folder and its files, and print what comes next."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder of the experiment, made if missing")
    given = parse(parser, args)
    folder: Path = given.folder
    config = folder / "own.yaml"
    check_folder(folder)
    if config.exists():
        raise InputError(f"{config}: is there already; name another folder, or remove it")
    make_folder(folder / "videos")
    write_text(config, own_yaml(folder))
    console = terminal(soft_wrap=True)
    console.print(f"{config} is written. Put videos into {folder / 'videos'}, and sentences into")
    console.print(f"{folder / 'train.jsonl'} and {folder / 'val.jsonl'} (own.yaml shows a line).")
    console.print("Then:\n")
    for number, line in enumerate(next_commands(folder), start=1):
        console.print(f"{number}. {line}")


def own_yaml(folder: Path) -> str:
    """The commented configuration, with places in `folder`."""
    places = {
        "train": folder / "features" / "train",
        "selection": folder / "features" / "val",
        "report": folder / "features" / "val",
    }
    indented = "".join(f"  {line}\n" for line in to_yaml(dict(places)).splitlines()).rstrip()
    return OWN.format(
        folder=folder,
        name=to_yaml({"name": plain(folder.resolve().name)}).rstrip(),
        places=indented,
        videos=to_yaml({"videos": folder / "videos"}).rstrip(),
    )


def plain(name: str) -> str:
    """A folder's name as a run's."""
    return name.lstrip(".") or "own"


def next_commands(folder: Path) -> list[str]:
    """What to run next, each as it can be copied."""
    here = shlex.quote(str(folder))
    encoder = shlex.quote(str(ROOT / "configs" / "extract" / "quickstart.yaml"))
    extract = (
        f"for split in train val; do python -m launch.extract --config {encoder} --split $split "
        f"--annotations {here}/$split.jsonl --videos {here}/videos "
        f"--output {here}/features/$split; done"
    )
    run = shlex.quote(str(Path("runs") / plain(folder.resolve().name)))
    return [
        extract,
        f"sdst-train --config {here}/own.yaml",
        f'python -m launch.predict {here}/videos "a sentence" --model {run} --output {here}/found',
    ]


if __name__ == "__main__":
    sys.exit(main())
