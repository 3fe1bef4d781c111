"""A CLIP-like checkpoint is an encoder; what is wrong with one is told in a line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.checkpoint import find_checkpoint
from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.storage import Location
from launch.extract import Command
from tests.clip_checkpoints import save_checkpoint
from trainer.cli import load_config, parse_config
from trainer.config import Config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_checkpoint(folder, "clip")
    return folder


def config(folder: Path) -> EncoderConfig:
    layers = (0, 2)
    return EncoderConfig(
        video="clip",
        text="clip",
        video_layers=layers,
        text_layers=layers,
        checkpoint=str(folder),
        clip_length=0.5,
        batch=3,
    )


def test_videos_and_sentences_become_features_of_a_local_checkpoint(
    folder: Path, video: Path
) -> None:
    encoder = FeatureEncoder(config(folder))
    assert encoder.encode_video(video).features.shape == (8, 2, 20)
    (text,) = encoder.encode_text(["a dog runs"])
    assert text.shape == (5, 2, 24)
    found = encoder.provenance
    weights = Location(folder / "model.safetensors").sha256()
    assert (found.video_weights, found.text_weights) == (weights, weights)
    assert found.tokenizer == Location(folder / "tokenizer.json").sha256()
    assert "centre 32 x 32" in found.preprocessing
    assert "0.46" in found.preprocessing


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_clips_and_sentences_get_the_librarys_vectors(
    kind: str, video: Path, tmp_path: Path
) -> None:
    model = save_checkpoint(tmp_path, kind)
    shallow = replace(config(tmp_path), video_layers=(0,), text_layers=(0, 1))
    encoder = FeatureEncoder(shallow)
    encoded = encoder.encode_video(video)
    (sentence,) = encoder.encode_sentences(["A dog runs"])
    assert encoded.features.shape[1] == 1
    assert sentence.features.shape[1] == 2
    assert encoded.joint is not None
    deepest = FeatureEncoder(replace(shallow, video_layers=(-1,))).encode_video(video)
    np.testing.assert_array_equal(encoded.joint, deepest.features[:, 0])
    ids = [0, 3, 5, 8, 1] + ([1] * 11 if kind != "clip" else [])
    with torch.no_grad():
        expected = model.get_text_features(input_ids=torch.tensor([ids])).pooler_output[0]
    np.testing.assert_allclose(sentence.joint, expected.half(), atol=2e-3)
    assert encoder.joint_width == len(expected)


def test_the_tokens_beyond_what_is_read_are_counted(folder: Path) -> None:
    encoder = FeatureEncoder(config(folder))
    short, long = encoder.encode_sentences(["a dog runs " * 4 + "a dog", "a dog runs " * 20])
    assert (short.unread, long.unread) == (0, 46)  # 14 of 60 words fit between start and end
    assert len(long.features) == 16


def test_what_fills_a_sentence_up_is_not_stored(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "siglip")
    (text,) = FeatureEncoder(config(tmp_path)).encode_text(["a dog runs"])
    assert text.shape == (5, 2, 24)  # of 16 places that the tower sees


def test_weights_in_several_files_give_the_same_features(
    folder: Path, video: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    parted = Path(shutil.copytree(folder, tmp_path / "parted"))
    weights = load_file(parted / "model.safetensors")
    (parted / "model.safetensors").unlink()
    halves = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(weights)}
    for file in set(halves.values()):
        save_file({k: v for k, v in weights.items() if halves[k] == file}, parted / file)
    index = parted / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": halves}))
    whole, split = FeatureEncoder(config(folder)), FeatureEncoder(config(parted))
    np.testing.assert_array_equal(
        whole.encode_video(video).features, split.encode_video(video).features
    )
    assert whole.provenance.video_weights != split.provenance.video_weights
    index.write_text(json.dumps({"weight_map": {"a": "../part-0.safetensors"}}))
    with pytest.raises(InputError, match="cannot name a file"):
        _ = FeatureEncoder(config(parted)).provenance


def _torch_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights but pickled ones": (_torch_file, "model.safetensors: no such file; pickled"),
    "damaged weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"1234567890"),
        "not a complete safetensors file",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "config.json: no such"),
    "a list as configuration": (
        lambda folder: (folder / "config.json").write_text("[1]"),
        "and no settings",
    ),
    "no preparation": (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        "holds no preprocessor_config.json",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "tokenizer.json: no such",
    ),
    "a damaged tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "not a tokenizer.json",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_no_whole_checkpoint_is_told_in_one_line(
    fault: str, folder: Path, tmp_path: Path
) -> None:
    damage, said = FAULTS[fault]
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    damage(damaged)
    with pytest.raises(InputError) as raised:
        FeatureEncoder(config(damaged)).load()
    assert said in str(raised.value)
    assert "damaged" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_weights_of_another_size_name_the_file_and_a_key(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(folder, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["visual_projection.weight"] = torch.zeros(3, 24)
    save_file(weights, other / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors: .*another shape: visual_projection"):
        FeatureEncoder(config(other)).load()


def test_neither_a_folder_nor_a_name_on_the_hub_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("/no/such/folder", "../no-such", str(folder / "config.json"), "a/b/c", ""):
        with pytest.raises(InputError, match="no such folder"):
            find_checkpoint(name, None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"somebody/clip: .*not to be had from the hub"):
        find_checkpoint("somebody/clip", None)
    with pytest.raises(InputError, match=r"encoder\.checkpoint"):
        FeatureEncoder(replace(config(folder), checkpoint=None))
    with pytest.raises(InputError, match="has no revisions"):
        find_checkpoint(str(folder), "main")


def test_the_settings_of_published_models_are_read() -> None:
    root = Path(__file__).parents[3] / "configs"
    for name in ("clip_b32", "clip_l14", "siglip2_b16", "internvideo2_6b"):
        command = ["--config", str(root / "extract" / f"{name}.yaml"), "--annotations=a.jsonl"]
        found = parse_config(Command, [*command, "--videos=v", "--output=o"], "").encoder
        assert found.video == found.text == ("clip" if found.checkpoint else "internvideo2-6b")
    experiment = load_config(Config, root / "qvhighlights" / "clip_b32.yaml")
    assert experiment.data.provenance["video_encoder"] == "clip"
