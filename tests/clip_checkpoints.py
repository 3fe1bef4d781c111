"""Tiny random checkpoints in the shapes of CLIP, SigLIP and SigLIP 2, as their owners save them."""

import json
import warnings
from pathlib import Path
from typing import Any

WORDS = ("a", "the", "dog", "cat", "person", "runs", "sleeps", "waves")
WORDS += ("red", "green", "blue", "square", "in", "on")
SIDE, PATCH = 32, 8

TOWER: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


def save_checkpoint(folder: Path, kind: str, seed: int = 0, **tower: Any) -> Any:
    """Write a checkpoint of `kind` (clip, siglip, siglip2) and its files; returns the model."""
    import torch
    from transformers import AutoConfig, AutoModel

    tower = TOWER | tower
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = tower | {"vocab_size": 64, "max_position_embeddings": 16} | special
    vision = tower | {"patch_size": PATCH, "image_size": SIDE}
    extra: dict[str, Any] = {}
    if kind == "clip":
        extra["projection_dim"] = 20
        text["projection_dim"] = vision["projection_dim"] = 20
    elif kind == "siglip2":
        vision["num_patches"] = (SIDE // PATCH) ** 2
        del vision["image_size"]
    if kind != "clip":
        text["projection_size"] = tower["hidden_size"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **extra)
        torch.manual_seed(seed)
        model = AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer())
    size: dict[str, Any] = {"size": {"height": SIDE, "width": SIDE}}
    if kind == "clip":
        size = {"size": {"shortest_edge": SIDE}, "do_center_crop": True}
        size["crop_size"] = {"height": SIDE, "width": SIDE}
    settings = size | {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 3}))
    return model


def tokenizer() -> str:
    """A tokenizer.json of whole words, with a token before and one after each sentence."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    names = ["<start>", "<end>", "<unknown>", *WORDS]
    made = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unknown>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return str(made.to_str())
