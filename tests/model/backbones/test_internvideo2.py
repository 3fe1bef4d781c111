import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.backbones import internvideo2 as tower
from model.backbones import video_encoder
from model.backbones.internvideo2 import InternVideo2
from model.config import InternVideo2Config

SMALL = InternVideo2Config(
    image_size=42,
    width=48,
    depth=4,
    heads=3,
    mlp_width=80,
    pool_heads=4,
    pool_width=20,
)
"""9 patches a frame, so 37 tokens; heads of the blocks and of the pooling differ."""


def random_weights(config: InternVideo2Config, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a plausible scale, all of them random: norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in InternVideo2(config).state_dict().items()}
    weights = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("weight") and len(shape) > 1:
            weights[key] = noise / math.sqrt(math.prod(shape[1:]))
        else:
            weights[key] = 0.5 * noise + float(key.endswith(("weight", "gamma")))
    return weights


def build(config: InternVideo2Config = SMALL, seed: int = 0) -> InternVideo2:
    encoder = InternVideo2(config)
    encoder.load_official(random_weights(config, seed))
    return encoder


def clips(batch: int = 2, frames: int = 4, side: int = 42) -> Tensor:
    return torch.randn(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(1))


# An independent restatement, token by token and head by head, in float64.


def restated_states(w: dict[str, Tensor], config: InternVideo2Config, clip: Tensor) -> list[Tensor]:
    """Token states (N, C) after every block, for one clip (3, T, H, W)."""
    w = {key: value.double() for key, value in w.items()}
    clip, p = clip.double(), config.patch_size
    tokens = [w["cls_token"][0, 0]]
    for t in range(clip.shape[1]):
        for y in range(0, config.image_size, p):
            for x in range(0, config.image_size, p):
                patch = clip[:, t, y : y + p, x : x + p]
                kernel = w["patch_embed.proj.weight"][:, :, 0]  # (C, 3, p, p)
                tokens.append((kernel * patch).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
    states = torch.stack(tokens) + restated_position(w["pos_embed"][0], clip.shape[1], 9)
    after = []
    for i in range(config.depth):
        b = {k.removeprefix(f"blocks.{i}."): v for k, v in w.items() if f"blocks.{i}." in k}
        normed = rms(states) * b["norm1.weight"]
        query_weight, key_weight, value_weight = b["attn.qkv.weight"].chunk(3)
        mixed = restated_attention(
            rms(normed @ query_weight.T) * b["attn.q_norm.weight"],
            rms(normed @ key_weight.T) * b["attn.k_norm.weight"],
            normed @ value_weight.T,
            config.heads,
        )
        states = states + (mixed @ b["attn.proj.weight"].T + b["attn.proj.bias"]) * b["ls1.gamma"]
        hidden = rms(states) * b["norm2.weight"] @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        states = states + (hidden @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]) * b["ls2.gamma"]
        after.append(states)
    return after


def restated_pooling(w: dict[str, Tensor], config: InternVideo2Config, states: Tensor) -> Tensor:
    """(N, C) -> (pool_width,)."""
    prefix = "clip_projector."
    w = {k.removeprefix(prefix): v.double() for k, v in w.items() if k.startswith(prefix)}

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return unit * w[f"norm1_{name}.weight"] + w[f"norm1_{name}.bias"]

    def project(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, name) @ w[f"cross_attn.{name}.weight"].T + w[f"cross_attn.{name}_bias"]

    pooled = restated_attention(
        project(states.mean(0, keepdim=True), "q"),
        project(states, "k"),
        project(states, "v"),
        config.pool_heads,
    )
    return (pooled @ w["cross_attn.proj.weight"].T + w["cross_attn.proj.bias"])[0]


def restated_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    size = query.shape[1] // heads
    mixed = torch.empty(len(query), query.shape[1], dtype=query.dtype)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for row in range(len(query)):
            scores = (key[:, part] @ query[row, part]) / math.sqrt(size)
            weights = (scores - scores.max()).exp()
            mixed[row, part] = (weights / weights.sum()) @ value[:, part]
    return mixed


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def restated_position(stored: Tensor, frames: int, patches: int) -> Tensor:
    """(1 + frames * patches, C): linear between frame centres, constant beyond the outer two."""
    known = (len(stored) - 1) // patches
    rows = [stored[0]]
    for frame in range(frames):
        place = min(max((frame + 0.5) * known / frames - 0.5, 0), known - 1)
        before = min(int(place), known - 1)
        after = min(before + 1, known - 1)
        for patch in range(patches):
            left, right = (stored[1 + step * patches + patch] for step in (before, after))
            rows.append(left + (right - left) * (place - before))
    return torch.stack(rows)


@pytest.mark.parametrize("frames", [4, 1, 3, 8])
def test_every_layer_agrees_with_a_restatement_for_any_number_of_frames(frames: int) -> None:
    weights, video = random_weights(SMALL), clips(frames=frames)
    features = build()(video, range(SMALL.depth))  # (B, K, 20)
    for row, clip in zip(features, video, strict=True):
        for pooled, states in zip(row, restated_states(weights, SMALL, clip), strict=True):
            expected = restated_pooling(weights, SMALL, states).float()
            torch.testing.assert_close(pooled, expected, atol=1e-4, rtol=0)


def test_cls_and_average_pooling_take_the_token_states_themselves() -> None:
    weights, video = random_weights(SMALL), clips(1)
    states = torch.stack(restated_states(weights, SMALL, video[0])).float()  # (K, N, C)
    for pooling, expected in (("cls", states[:, 0]), ("average", states.mean(1))):
        encoder = build(replace(SMALL, pooling=pooling))
        assert encoder.width == SMALL.width
        found = encoder(video, range(SMALL.depth))[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_layers_count_from_the_shallowest_and_minus_one_is_the_deepest() -> None:
    encoder, video = build(), clips(1)
    every = encoder(video, [0, 1, 2, 3])
    assert every.shape == (1, 4, 20)
    torch.testing.assert_close(encoder(video, [-3, -1]), every[:, [1, 3]])
    torch.testing.assert_close(encoder(video, [-1, -1]), every[:, [3, 3]])
    for layers in ([4], [-5], [], [2, 1]):
        with pytest.raises(ValueError, match="layers must"):
            encoder(video, layers)


def test_only_the_blocks_that_are_needed_run_and_only_chosen_states_are_pooled() -> None:
    encoder = build()
    ran: list[str] = []
    for name, module in encoder.named_modules():
        if name in ("blocks.0", "blocks.1", "blocks.2", "blocks.3", "clip_projector"):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    encoder(clips(1), [0, 2])
    assert ran == ["blocks.0", "clip_projector", "blocks.1", "blocks.2", "clip_projector"]


def test_clips_of_a_batch_do_not_influence_each_other() -> None:
    encoder, video = build(), clips(3)
    alone = torch.cat([encoder(clip[None], [1, 3]) for clip in video])
    torch.testing.assert_close(encoder(video, [1, 3]), alone)


def test_the_encoder_is_frozen() -> None:
    encoder = build()
    assert not encoder(clips(1).requires_grad_(), [-1]).requires_grad
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training


def test_bfloat16_stays_close_to_float32() -> None:
    encoder, video = build(), clips()
    exact = encoder(video, range(4))
    rounded = encoder.bfloat16()(video, range(4))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()


def test_norm_and_layer_scale_compute_in_float32_under_bfloat16() -> None:
    x = torch.linspace(-3, 3, 96).bfloat16()
    norm, scale = tower.RMSNorm(96).bfloat16(), tower.LayerScale(96).bfloat16()
    torch.testing.assert_close(norm(x), rms(x.double()).bfloat16(), rtol=0, atol=0)
    expected = (x.double() * scale.gamma.double()).bfloat16()
    torch.testing.assert_close(scale(x), expected, rtol=0, atol=0)


@pytest.mark.slow  # a minute of C++ compiler
def test_a_compiled_encoder_gives_the_same_features() -> None:
    compiled = InternVideo2(replace(SMALL, depth=2, compile=True))
    weights = random_weights(replace(SMALL, depth=2))
    assert compiled.load_official(weights) == []
    plain = build(replace(SMALL, depth=2))
    torch.testing.assert_close(compiled(clips(), [0, 1]), plain(clips(), [0, 1]), atol=1e-5, rtol=0)


def test_the_attention_backend_reaches_every_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = tower.attention

    def spy(query: Tensor, key: Tensor, value: Tensor, *, backend: str) -> Tensor:
        seen.append(backend)
        return real(query, key, value)

    monkeypatch.setattr(tower, "attention", spy)
    monkeypatch.setattr(tower, "check_backend", lambda name: None)
    build(replace(SMALL, attention="flash"))(clips(1), [1])
    assert seen == ["flash"] * 3  # two blocks and the pooling


def test_the_whole_checkpoint_and_the_bare_tower_load_alike_and_list_what_they_skip() -> None:
    weights = random_weights(SMALL)
    unused = {
        "clip_decoder.0.head.weight": torch.zeros(3),
        "final_clip_decoder.norm.bias": torch.zeros(3),
        "clip_pos_embed": torch.zeros(3),
        "img_pos_embed": torch.zeros(3),
        "clip_img_pos_embed": torch.zeros(3),
    }
    others = {"temp": torch.zeros(()), "text_encoder.bert.x": torch.zeros(1)}
    whole = {f"vision_encoder.{key}": value for key, value in (weights | unused).items()} | others
    first, second = InternVideo2(SMALL), InternVideo2(SMALL)
    assert set(first.load_official(weights | unused)) == set(unused)
    skipped = second.load_official(whole)
    assert set(skipped) == {f"vision_encoder.{key}" for key in unused} | set(others)
    torch.testing.assert_close(first(clips(1), [-1]), second(clips(1), [-1]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda w: w.pop("vision_encoder.blocks.1.ls1.gamma"), r"missing: blocks\.1\.ls1\.gamma"),
        (lambda w: w.update({"vision_encoder.head.weight": torch.zeros(2)}), "unexpected: head"),
        (lambda w: w.update({"decoder.weight": torch.zeros(2)}), "unexpected keys.*decoder"),
        (lambda w: w.update({"vision_encoder.cls_token": torch.zeros(1, 1, 7)}), "another shape"),
        (lambda w: w.update({"vision_encoder.pos_embed": torch.zeros(1, 30, 48)}), "pos_embed"),
    ],
)
def test_weights_that_do_not_fit_exactly_are_refused(fault, message: str) -> None:
    weights = {f"vision_encoder.{key}": value for key, value in random_weights(SMALL).items()}
    fault(weights)
    with pytest.raises(ValueError, match=message):
        InternVideo2(SMALL).load_official(weights)


def test_a_checkpoint_of_another_number_of_frames_loads_and_is_interpolated_once() -> None:
    eight = replace(SMALL, frames_per_clip=8)
    weights = random_weights(eight)
    encoder = InternVideo2(SMALL)  # takes 4 frames a clip
    encoder.load_official(weights)
    for frames in (8, 4, 6):
        video = clips(1, frames)
        states = restated_states(weights, eight, video[0])[-1]
        expected = restated_pooling(weights, eight, states).float()
        torch.testing.assert_close(encoder(video, [-1])[0, 0], expected, atol=1e-4, rtol=0)


def test_a_tubelet_of_two_frames_makes_half_the_tokens() -> None:
    config = replace(SMALL, tubelet_size=2)
    encoder = build(config)
    assert encoder.state_dict()["pos_embed"].shape == (1, 1 + 2 * 9, 48)
    assert encoder(clips(frames=6), [-1]).shape == (2, 1, 20)
    with pytest.raises(ValueError, match="T a multiple of 2"):
        encoder(clips(frames=3), [-1])


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"video must be \(B, 3, T, 42, 42\).*28"):
        build()(clips(side=28), [-1])


@pytest.mark.parametrize(
    ("field", "value"), [("heads", 5), ("pool_heads", 5), ("image_size", 40), ("pooling", "max")]
)
def test_sizes_that_do_not_divide_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        replace(SMALL, **{field: value})


def test_built_on_the_meta_device_the_weights_are_taken_not_copied() -> None:
    weights = random_weights(SMALL)
    with torch.device("meta"):
        encoder = InternVideo2(SMALL)
    encoder.load_official(weights)
    assert (
        encoder.blocks[0].mlp.fc1.weight.data_ptr() == weights["blocks.0.mlp.fc1.weight"].data_ptr()
    )
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    torch.testing.assert_close(encoder(clips(), [1, 3]), build()(clips(), [1, 3]))


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Every key of the 1B checkpoint that the features need, with its shape."""
    block = {
        "norm1.weight": (1408,),
        "attn.qkv.weight": (4224, 1408),
        "attn.q_norm.weight": (1408,),
        "attn.k_norm.weight": (1408,),
        "attn.proj.weight": (1408, 1408),
        "attn.proj.bias": (1408,),
        "ls1.gamma": (1408,),
        "norm2.weight": (1408,),
        "mlp.fc1.weight": (6144, 1408),
        "mlp.fc1.bias": (6144,),
        "mlp.fc2.weight": (1408, 6144),
        "mlp.fc2.bias": (1408,),
        "ls2.gamma": (1408,),
    }
    pooling: dict[str, tuple[int, ...]] = {
        "cross_attn.proj.weight": (768, 1408),
        "cross_attn.proj.bias": (768,),
    }
    for part in "qkv":
        pooling[f"norm1_{part}.weight"] = pooling[f"norm1_{part}.bias"] = (1408,)
        pooling[f"cross_attn.{part}.weight"] = (1408, 1408)
        pooling[f"cross_attn.{part}_bias"] = (1408,)
    return (
        {
            "cls_token": (1, 1, 1408),
            "pos_embed": (1, 1025, 1408),
            "patch_embed.proj.weight": (1408, 3, 1, 14, 14),
            "patch_embed.proj.bias": (1408,),
        }
        | {f"blocks.{i}.{key}": shape for i in range(40) for key, shape in block.items()}
        | {f"clip_projector.{key}": shape for key, shape in pooling.items()}
    )


def test_the_1b_model_has_exactly_the_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        encoder = video_encoder("internvideo2-1b")
        found = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
        assert found == published_shapes()
        assert (
            encoder.load_official(
                {f"vision_encoder.{k}": torch.empty(s) for k, s in published_shapes().items()}
            )
            == []
        )
        features = encoder(torch.empty(2, 3, 8, 224, 224), [-4, -3, -2, -1])
    assert features.shape == (2, 4, 768)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert 1.00e9 < count < 1.05e9
    assert (encoder.depth, encoder.width, encoder.frames_per_clip) == (40, 768, 4)


def test_the_6b_model_has_its_published_sizes() -> None:
    with torch.device("meta"):
        model = video_encoder("internvideo2-6b")
    assert (model.name, model.depth, model.width) == ("internvideo2-6b", 48, 768)
    parameters = sum(parameter.numel() for parameter in model.blocks.parameters())
    assert parameters == 48 * (12 * 3200**2 + 3200 + 12800 + 3200 + 6 * 3200)
    with torch.device("meta"):
        clip = torch.zeros(1, 3, 4, 224, 224)
    assert model(clip, (-5, -1)).shape == (1, 2, 768)


def test_a_clip_is_projected_into_the_space_of_stage_2_where_the_weights_have_it() -> None:
    weights = {f"vision_encoder.{key}": value for key, value in random_weights(SMALL).items()}
    projection = torch.nn.Linear(SMALL.pool_width, 6)
    model = InternVideo2(SMALL)
    model.load_official(weights)
    assert model.joint_width is None
    with pytest.raises(NotImplementedError):
        model.project(model(clips(1), [-1])[:, 0])
    weights |= {f"vision_proj.{key}": value for key, value in projection.state_dict().items()}
    assert model.joint_width_in(weights) == 6
    assert model.load_official(weights) == []
    pooled = model(clips(2), [-1])[:, 0]
    torch.testing.assert_close(model.project(pooled), projection(pooled))
    weights["vision_proj.weight"] = torch.zeros(6, SMALL.pool_width + 1)
    with pytest.raises(ValueError, match="another shape: weight"):
        model.load_official(weights)
