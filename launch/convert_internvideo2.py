"""Convert InternVideo2's published checkpoint to safetensors, once.

    python -m launch.convert_internvideo2 --checkpoint InternVideo2-stage2_1b-224p-f4.pt \
        --vocabulary vocab.txt --output weights/internvideo2-1b

The checkpoint is read without unpickling anything but tensors, and the extraction then reads only
safetensors. The folder gets `vision.safetensors`, `text.safetensors` and `tokenizer.json`. Weights
keep the checkpoint's names and types. Keys that neither encoder has a use for are listed; a key
that is missing or unexpected is an error, and nothing is written.
"""

import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import InputError
from data_pipeline.output import check_folder, write_tensors, write_text
from data_pipeline.storage import Location, remove_temporary
from data_pipeline.untrusted import read_text, reading, shown
from model.config import InternVideo2Config, InternVideo2TextConfig
from trainer.cli import command, parse_config

if TYPE_CHECKING:
    from torch import Tensor


JOINT = ("vision_proj.", "text_proj.")
"""Beginnings of the keys of the projections into the joint space, which stand beside the towers."""


@dataclass(frozen=True)
class ConvertConfig:
    """Which files to convert, and the sizes they are checked against.

    Attributes:
        checkpoint: the published file, such as InternVideo2-stage2_1b-224p-f4.pt
        vocabulary: vocab.txt of bert-large-uncased
        output: folder of the converted files
        vision: sizes of the vision tower
        text: sizes of the text tower
    """

    checkpoint: Path
    vocabulary: Path
    output: Path
    vision: InternVideo2Config = field(default_factory=InternVideo2Config)
    text: InternVideo2TextConfig = field(default_factory=InternVideo2TextConfig)


@command
def main(args: list[str] | None = None) -> int:
    """Convert as the flags say; returns the exit status."""
    config = parse_config(ConvertConfig, args, __doc__)
    check_folder(config.output)
    checkpoint = read_checkpoint(config.checkpoint)
    tokenizer = wordpiece_tokenizer(config.vocabulary)
    import torch

    from model.backbones.internvideo2 import InternVideo2
    from model.backbones.internvideo2_text import InternVideo2Text

    with torch.device("meta"):  # to check names and shapes; the weights are not copied
        vision = InternVideo2(config.vision)
        text = InternVideo2Text(config.text, tokenizer)
    try:
        skipped = set(vision.load_official(checkpoint)) & set(text.load_official(checkpoint))
    except ValueError as error:
        raise InputError(
            f"{config.checkpoint}: {error}; is it the stage-2 checkpoint of this size?"
        ) from error
    remove_temporary(Location(config.output))  # gigabytes, of a conversion that was killed
    for name, prefix, encoder in (
        ("vision.safetensors", "vision_encoder.", vision),
        ("text.safetensors", "text_encoder.", text),
    ):
        weights = {
            key if key.startswith(JOINT) else prefix + key: value.contiguous()
            for key, value in encoder.state_dict().items()
        }
        write_tensors(config.output / name, weights)
        print(f"{config.output / name}: {len(weights)} tensors")
    write_text(config.output / "tokenizer.json", tokenizer)
    print(f"skipped, of no use to the encoders ({len(skipped)} keys):")
    print("\n".join(f"  {key}" for key in sorted(skipped)))
    return 0


def read_checkpoint(path: Path) -> "Mapping[str, Tensor]":
    """The state dict under `model` or `module` of a .pt file, without running code from it.

    Raises InputError for a file that is not there, not a checkpoint or holds more than tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; download it from the authors' model page")
    import torch

    try:
        # Files in the zip format are mapped, not read: only the tensors that are kept get copied.
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # whatever a damaged pickle or zip trips
        raise InputError(
            f"{path}: not a checkpoint that holds tensors only ({shown(error)}); download it again"
        ) from error
    for key in ("model", "module"):
        weights = content.get(key) if isinstance(content, dict) else None
        if isinstance(weights, dict) and all(
            isinstance(name, str) and torch.is_tensor(value) for name, value in weights.items()
        ):
            return weights
    raise InputError(f"{path}: no weights under 'model' or 'module'; is it the published file?")


def wordpiece_tokenizer(vocabulary: Path) -> str:
    """The tokenizer.json of lower-casing BERT for a vocab.txt, one word piece per line."""
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError as error:
        raise InputError("the text encoder needs transformers: pip install transformers") from error
    if not vocabulary.is_file():
        raise InputError(f"{vocabulary}: no such file; it is vocab.txt of bert-large-uncased")
    with reading(vocabulary, "it is vocab.txt of bert-large-uncased"):
        pieces = read_text(vocabulary).splitlines()
    for special in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"):
        if special not in pieces:
            raise InputError(f"{vocabulary}: no {special}; it must be a BERT vocabulary, vocab.txt")
    numbers = {piece: index for index, piece in enumerate(pieces)}
    return str(BertWordPieceTokenizer(numbers, lowercase=True).to_str())


if __name__ == "__main__":
    sys.exit(main())
