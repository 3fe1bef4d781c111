"""The text tower of InternVideo2 stage 2: the layers of BERT-large that see no video.

Layers 0 to 18 of the 24 are text only; the rest cross-attends to video and is not loaded. The
architecture is Hugging Face's BertModel; the weights come under the published checkpoint's names.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from model.backbones import TextEncoder, load_exactly, resolve_layers
from model.backbones.internvideo2_checkpoint import joint_width_in, take_part, take_projection
from model.config import InternVideo2TextConfig


def internvideo2_1b_text(tokenizer: str, **options: int) -> "InternVideo2Text":
    """The text tower for the registry; `options` are fields of `InternVideo2TextConfig`."""
    return InternVideo2Text(InternVideo2TextConfig(**options), tokenizer)


class InternVideo2Text(TextEncoder):
    """The frozen tower; `tokenizer` is the text of the `tokenizer.json` of bert-large-uncased.

    Raises ImportError where transformers is not installed. On the meta device as `InternVideo2`.
    """

    name = "internvideo2-1b"

    def __init__(self, config: InternVideo2TextConfig, tokenizer: str) -> None:
        self.max_tokens = config.max_tokens
        super().__init__(tokenizer)
        try:
            from transformers import BertConfig, BertModel
        except ImportError as error:
            raise ImportError(
                "InternVideo2's text encoder needs transformers: pip install transformers"
            ) from error
        self.config = config
        self.depth, self.width = config.depth, config.width
        self.bert = BertModel(
            BertConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_width,
                max_position_embeddings=config.positions,
                layer_norm_eps=1e-12,
            ),
            add_pooling_layer=False,
        )
        self.text_proj: nn.Linear | None = None
        self.requires_grad_(False).eval()

    def load_official(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """Load the published checkpoint, or the tower's part of it without its prefix.

        Returns the keys without use here: the cross-attending layers, the heads of masked language
        modelling and the rest of the multi-modal model. Raises ValueError for any other key that is
        missing, unexpected or of another shape.
        """
        weights, skipped, prefix = take_part(state_dict, "text_encoder.bert.")
        fusion = range(self.config.depth, self.config.published_depth)
        unused = ("embeddings.position_ids", "pooler.", *(f"encoder.layer.{i}." for i in fusion))
        skipped += [prefix + key for key in load_exactly(self.bert, weights, unused)]
        # Hugging Face keeps position and segment numbers in buffers that no checkpoint holds;
        # forward passes its own, but on the meta device they could not be moved.
        for name, buffer in list(self.bert.embeddings.named_buffers()):
            if buffer.is_meta:
                delattr(self.bert.embeddings, name)
        self.text_proj, taken = take_projection(state_dict, "text_proj", self.width)
        self.joint_width = self.text_proj.out_features if self.text_proj else None
        return [key for key in skipped if key not in taken]

    def joint_width_in(self, weights: Mapping[str, Tensor]) -> int | None:
        """With the projection of stage 2, which [CLS] after the last layer goes through."""
        return joint_width_in(weights, "text_proj")

    def project(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """As `TextEncoder.project`."""
        if self.text_proj is None:
            return super().project(states, ids, mask)
        return torch.as_tensor(self.text_proj(states[:, 0]))

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """(B, T) ids and mask -> (B, T, K, Dt) hidden states of every token, [CLS] and [SEP] too.

        Layer i in [0, depth) is the state after BERT layer i; they run from shallow to deep.
        """
        chosen = resolve_layers(layers, self.depth)
        states = self.bert(
            input_ids=ids,
            attention_mask=mask.long(),
            token_type_ids=torch.zeros_like(ids),
            position_ids=torch.arange(ids.shape[1], device=ids.device)[None],
            output_hidden_states=True,
        ).hidden_states  # depth + 1 of (B, T, Dt), the embedding first
        return torch.stack([states[layer + 1] for layer in chosen], dim=2)  # (B, T, K, Dt)
