import math

import pytest
import torch
from torch import Tensor

from model.backbones import text_encoder

pytest.importorskip("transformers")
from tokenizers import BertWordPieceTokenizer

from model.backbones.internvideo2_text import InternVideo2Text
from model.config import InternVideo2TextConfig

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "run", "##s", "cafe", "!"]
TOKENIZER = BertWordPieceTokenizer({piece: i for i, piece in enumerate(PIECES)}).to_str()
SMALL = InternVideo2TextConfig(
    vocabulary=len(PIECES),
    width=24,
    depth=3,
    published_depth=5,
    heads=3,
    mlp_width=40,
    positions=16,
    max_tokens=8,
)
PREFIX = "text_encoder.bert."


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, value in InternVideo2Text(SMALL, TOKENIZER).state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() > 1:
            noise = noise / math.sqrt(24)
        weights["text_encoder." + key] = noise + float("LayerNorm.weight" in key)
    return weights


def build() -> InternVideo2Text:
    encoder = InternVideo2Text(SMALL, TOKENIZER)
    encoder.load_official(random_weights())
    return encoder


def restated_states(w: dict[str, Tensor], ids: list[int]) -> list[Tensor]:
    """States (T, Dt) after every layer for one sentence, word by word, in float64."""
    w = {key.removeprefix(PREFIX): value.double() for key, value in w.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return unit * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = torch.stack(
        [
            w["embeddings.word_embeddings.weight"][token]
            + w["embeddings.position_embeddings.weight"][place]
            + w["embeddings.token_type_embeddings.weight"][0]
            for place, token in enumerate(ids)
        ]
    )
    x, after = norm(x, "embeddings"), []
    for i in range(SMALL.depth):
        layer, size = f"encoder.layer.{i}", SMALL.width // SMALL.heads
        parts = (linear(x, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        query, key, value = parts
        mixed = torch.cat(
            [
                torch.softmax(query[:, h] @ key[:, h].T / math.sqrt(size), -1) @ value[:, h]
                for h in (slice(k * size, (k + 1) * size) for k in range(SMALL.heads))
            ],
            dim=1,
        )
        output = f"{layer}.attention.output"
        x = norm(x + linear(mixed, f"{output}.dense"), output)
        hidden = linear(x, f"{layer}.intermediate.dense")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = norm(x + linear(hidden, f"{layer}.output.dense"), f"{layer}.output")
        after.append(x)
    return after


def test_every_layer_agrees_with_a_restatement_whatever_the_padding() -> None:
    encoder = build()
    ids, mask = encoder.tokenize(["a dog runs!", "dog"])
    states = encoder(ids, mask, [0, 1, 2])  # (B, T, K, Dt)
    assert states.shape == (2, 7, 3, 24)
    for row, (tokens, real) in enumerate(zip(ids, mask, strict=True)):
        expected = restated_states(random_weights(), tokens[real].tolist())
        for k, layer in enumerate(expected):
            torch.testing.assert_close(states[row, real, k], layer.float(), atol=1e-4, rtol=0)


def test_sentences_are_lower_cased_cut_and_keep_their_special_tokens() -> None:
    encoder = build()
    ids, mask = encoder.tokenize(["A DOG runs, Café", "dog " * 30])
    assert ids[0, mask[0]].tolist() == [2, 5, 6, 7, 8, 1, 9, 3]
    assert ids[1].tolist() == [2, 6, 6, 6, 6, 6, 6, 3]


def test_layers_count_among_the_text_only_ones() -> None:
    encoder = build()
    ids, mask = encoder.tokenize(["a dog"])
    every = encoder(ids, mask, [0, 1, 2])
    torch.testing.assert_close(encoder(ids, mask, [-2, -1]), every[:, :, 1:])
    with pytest.raises(ValueError, match=r"within \[-3, 3\)"):
        encoder(ids, mask, [3])
    assert not every.requires_grad


def test_fusion_layers_and_heads_are_skipped_and_listed() -> None:
    unused = {
        f"{PREFIX}embeddings.position_ids": torch.arange(16)[None],
        f"{PREFIX}encoder.layer.3.crossattention.self.key.weight": torch.zeros(2),
        f"{PREFIX}encoder.layer.4.output.dense.bias": torch.zeros(2),
        "text_encoder.cls.predictions.bias": torch.zeros(2),
        "vision_encoder.cls_token": torch.zeros(2),
    }
    skipped = InternVideo2Text(SMALL, TOKENIZER).load_official(random_weights() | unused)
    assert set(skipped) == set(unused)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda w: w.pop(f"{PREFIX}encoder.layer.2.output.dense.bias"), "missing: encoder.layer.2"),
        (lambda w: w.update({f"{PREFIX}encoder.layer.5.x": torch.zeros(1)}), "unexpected: encoder"),
        (lambda w: w.update({"head.weight": torch.zeros(1)}), "unexpected keys.*head"),
    ],
)
def test_weights_that_do_not_fit_exactly_are_refused(fault, message: str) -> None:
    weights = random_weights()
    fault(weights)
    with pytest.raises(ValueError, match=message):
        InternVideo2Text(SMALL, TOKENIZER).load_official(weights)


def test_built_on_the_meta_device_it_gives_the_same_states() -> None:
    with torch.device("meta"):
        encoder = InternVideo2Text(SMALL, TOKENIZER)
    encoder.load_official(random_weights())
    encoder.to("cpu")
    ids, mask = encoder.tokenize(["a dog runs!", "dog"])
    torch.testing.assert_close(encoder(ids, mask, [-1]), build()(ids, mask, [-1]))


def test_the_published_model_has_the_keys_and_shapes_of_bert_large() -> None:
    with torch.device("meta"):
        encoder = text_encoder("internvideo2-1b", TOKENIZER)
    found = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30522, 1024),
        "embeddings.position_embeddings.weight": (512, 1024),
        "embeddings.token_type_embeddings.weight": (2, 1024),
        "embeddings.LayerNorm.weight": (1024,),
        "embeddings.LayerNorm.bias": (1024,),
    }
    for i in range(19):
        for name, shape in (
            ("attention.self.query", (1024, 1024)),
            ("attention.self.key", (1024, 1024)),
            ("attention.self.value", (1024, 1024)),
            ("attention.output.dense", (1024, 1024)),
            ("attention.output.LayerNorm", (1024,)),
            ("intermediate.dense", (4096, 1024)),
            ("output.dense", (1024, 4096)),
            ("output.LayerNorm", (1024,)),
        ):
            expected[f"encoder.layer.{i}.{name}.weight"] = shape
            expected[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
    assert found == {f"bert.{key}": shape for key, shape in expected.items()}
    assert (encoder.depth, encoder.width, encoder.max_tokens) == (19, 1024, 40)


def test_a_sentence_is_projected_from_its_first_token_after_the_last_layer() -> None:
    projection = torch.nn.Linear(SMALL.width, 6)
    keys = {f"text_proj.{key}": value for key, value in projection.state_dict().items()}
    encoder = InternVideo2Text(SMALL, TOKENIZER)
    assert encoder.joint_width_in(random_weights() | keys) == 6
    assert encoder.load_official(random_weights() | keys) == []
    ids, mask = encoder.tokenize(["a dog"])
    states = encoder(ids, mask, [0, -1])
    expected = projection(states[:, 0, -1])
    torch.testing.assert_close(encoder.project(states[:, :, -1], ids, mask), expected)
