"""CLIP-like towers give what the library gives, and lower layers in the same space."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from model.backbones import text_encoder, video_encoder
from model.backbones.clip_pictures import preparation
from tests.clip_checkpoints import PATCH, SIDE, save_checkpoint

KINDS = ("clip", "siglip", "siglip2")


class Tiny:
    """A checkpoint, the library's model of it, and our two encoders."""

    def __init__(self, folder: Path, kind: str) -> None:
        from safetensors.torch import load_file

        self.theirs = save_checkpoint(folder, kind)
        self.config = json.loads((folder / "config.json").read_text())
        self.preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
        with torch.device("meta"):
            self.video = video_encoder("clip", config=self.config, preprocessor=self.preprocessor)
            self.text = text_encoder(
                "clip", (folder / "tokenizer.json").read_text(), config=self.config
            )
        weights = load_file(folder / "model.safetensors")
        for encoder in (self.video, self.text):
            encoder.load_official(weights)

    def pictures(self, frames: torch.Tensor) -> dict[str, Any]:
        """What the library takes of (N, 3, H, W)."""
        if self.config["model_type"] != "siglip2":
            return {"pixel_values": frames}
        from transformers.models.siglip2.image_processing_pil_siglip2 import (
            convert_image_to_patches,
        )

        patches = [convert_image_to_patches(frame.numpy(), PATCH) for frame in frames]
        side = SIDE // PATCH
        return {
            "pixel_values": torch.stack([torch.from_numpy(each) for each in patches]),
            "pixel_attention_mask": torch.ones(len(frames), side * side, dtype=torch.long),
            "spatial_shapes": torch.tensor([[side, side]] * len(frames)),
        }


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp(request.param), request.param)


def frames(count: int, steps: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, steps, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_the_last_layer_of_a_picture_is_the_librarys_image_features(tiny: Tiny) -> None:
    video = frames(3)
    with torch.no_grad():
        expected = tiny.theirs.get_image_features(**tiny.pictures(video[:, :, 0])).pooler_output
    pooled = tiny.video(video, (-1,))[:, 0]
    torch.testing.assert_close(tiny.video.project(pooled), expected, rtol=0, atol=1e-5)
    assert tiny.video.joint_width == tiny.text.joint_width == expected.shape[1]


def test_a_lower_layer_is_what_a_tower_that_ends_there_gives(tiny: Tiny) -> None:
    video = frames(2)
    every = tiny.video(video, (0, 1, 2))
    blocks = tiny.theirs.vision_model.encoder.layers
    tiny.theirs.vision_model.encoder.layers = blocks[:2]
    try:
        with torch.no_grad():
            expected = tiny.theirs.get_image_features(**tiny.pictures(video[:, :, 0]))
    finally:
        tiny.theirs.vision_model.encoder.layers = blocks
    torch.testing.assert_close(every[:, 1], expected.pooler_output, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiny.video(video, (0, 1)), every[:, :2], rtol=0, atol=1e-6)
    assert not torch.allclose(every[:, 0], every[:, 2], atol=1e-3)


def test_a_clip_is_the_mean_of_its_frames(tiny: Tiny) -> None:
    video = frames(2, steps=3)
    single = [tiny.video(video[:, :, step : step + 1], (0, 2)) for step in range(3)]
    torch.testing.assert_close(
        tiny.video(video, (0, 2)), torch.stack(single).mean(0), rtol=0, atol=1e-5
    )


def test_a_sentences_joint_vector_is_the_librarys_text_features(tiny: Tiny) -> None:
    for sentence in ("a dog runs", "the red square in the blue square waves"):
        ids, mask = tiny.text.tokenize([sentence])
        with torch.no_grad():
            expected = tiny.theirs.get_text_features(input_ids=ids).pooler_output
        states = tiny.text(ids, mask, (0, 1, 2))
        assert states.shape == (1, ids.shape[1], 3, tiny.text.width)
        found = tiny.text.project(states[:, :, -1], ids, mask)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert int(mask.sum()) == len(sentence.split()) + 2  # what fills a sentence up is not real


def test_a_tokens_states_are_those_of_the_librarys_blocks(tiny: Tiny) -> None:
    ids, mask = tiny.text.tokenize(["a cat sleeps"])
    with torch.no_grad():
        hidden = tiny.theirs.text_model(input_ids=ids, output_hidden_states=True).hidden_states
    states = tiny.text(ids, mask, (0, 1))
    for layer in (0, 1):
        torch.testing.assert_close(states[:, :, layer], hidden[layer + 1], rtol=0, atol=1e-5)


def test_a_configuration_chooses_no_code(tiny: Tiny, tmp_path: Path) -> None:
    hostile = tiny.config | {
        "auto_map": {"AutoModel": "evil.Model"},
        "attn_implementation": "somebody/kernels",
        "_attn_implementation": "somebody/kernels",
    }
    with torch.device("meta"):
        encoder: Any = video_encoder("clip", config=hostile, preprocessor=tiny.preprocessor)
    assert encoder.model.config._attn_implementation == "sdpa"
    assert encoder.model.config.vision_config._attn_implementation == "sdpa"
    assert not hasattr(encoder.model.config, "auto_map")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "bert"}, "no picture and text tower"),
        ({"model_type": "unheard-of"}, "describes no model"),
        ({"model_type": None}, "describes no model"),
        ({"vision_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers is 1000000000"),
        ({"vision_config": {"hidden_size": "wide"}}, "describes no model"),
    ],
)
def test_a_configuration_of_something_else_is_refused(change: dict[str, Any], said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        video_encoder("clip", config={"model_type": "clip"} | change, preprocessor={})


THREE = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}


def test_pictures_are_prepared_as_the_checkpoint_says() -> None:
    cropped = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    assert preparation(THREE | cropped, 224) == ((0.5,) * 3, (0.2,) * 3, 224 / 256)
    assert preparation(THREE | {"size": 224, "crop_size": 224, "do_center_crop": True}, 224)[2] == 1
    assert preparation(THREE | {"size": {"height": 224, "width": 224}}, 224)[2] is None
    assert preparation({"do_normalize": False}, 224) == ((0.0,) * 3, (1.0,) * 3, None)


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"height": 256, "width": 256}},
        {"size": {"shortest_edge": 224}, "do_center_crop": False},
        {"size": {"shortest_edge": 224}, "crop_size": 256},
        {"size": {"shortest_edge": "large"}},
        {"size": {"shortest_edge": 223}},
        {"size": {"shortest_edge": 4 * 224 + 1}},
        {"do_rescale": False},
        {"rescale_factor": 1.0},
        {"resample": 0},
        {"image_std": [0.0, 1.0, 1.0]},
        {"image_mean": [0.5, float("nan"), 0.5]},
        {"image_mean": None},
    ],
)
def test_preparation_that_is_not_done_here_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"preprocessor_config.json: .*{'|'.join(change)}"):
        preparation(THREE | change, 224)
