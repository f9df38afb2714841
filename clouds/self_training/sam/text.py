"""SAM 3 with class names as prompts (Carion et al., 2025), by the transformers library. Letters as in `base`.

More letters: Q queries of the decoder, each of which may be an instance of the class.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from clouds.modeling.layers import full_precision
from clouds.self_training.sam.base import ClassPrompt, Embedding, NetworkSam

TOKENS = 32
"""Number of tokens to which SAM 3 was trained to pad a name; a longer name is cut."""


class TextSam(NetworkSam):
    """A `Sam3Model` or `Sam3LiteTextModel`: finds all instances of a class by its names.

    The mask of a class is the union of the instances, of any of its names, that overlap its regions in the teacher's
    label map: the teacher says where a class is, and SAM where its border is. Instances elsewhere are left out, as an
    object without a point is in the published method.

    An embedding is the last hidden state of the image encoder, not the feature pyramid that is computed from it: the
    pyramid is cheap and has five times as many numbers. Names are decoded one at a time, because each takes several
    maps of the size of the finest level, and as many masks as there are queries.
    """

    prompts = "text"

    def __init__(self, network: nn.Module, *, tokenizer: Any, score_threshold: float = 0.5, **of_network: Any) -> None:
        """
        Args:
            network: network with its weights; it is changed in place.
            tokenizer: tokenizer of the network's text encoder.
            score_threshold: score in [0, 1] above which a query is an instance.
            of_network: other arguments of `NetworkSam`.
        """
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold is {score_threshold}; it must be in [0, 1]")
        super().__init__(network, **of_network)
        self.tokenizer = tokenizer
        self.score_threshold = score_threshold
        self._texts: dict[str, tuple[Any, Tensor]] = {}

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        hidden = self.network.vision_encoder.backbone(pixels).last_hidden_state  # (B, h w, C)
        side = self.frame.side // self.network.config.vision_config.backbone_config.patch_size
        return (hidden.mT.unflatten(2, (side, side)),)

    @torch.no_grad()
    @full_precision
    def predict(self, embedding: Embedding, prompts: Sequence[ClassPrompt]) -> Tensor:
        masks = torch.zeros(len(prompts), *embedding.size, dtype=torch.bool, device=self.device)
        if not prompts:
            return masks
        levels, positions = self.network.vision_encoder.neck(self.maps(embedding)[0][None])
        pyramid = SimpleNamespace(  # an output of the image encoder
            fpn_hidden_states=levels, fpn_position_encoding=positions, hidden_states=None, attentions=None
        )
        for mask, prompt in zip(masks, prompts, strict=True):
            for name in prompt.names:
                for instance in self._instances(pyramid, name, embedding.size):
                    mask |= instance & (instance & prompt.regions).any()
        return masks

    def _instances(self, pyramid: SimpleNamespace, name: str, size: tuple[int, int]) -> Tensor:
        """Return the masks (Q', H, W) bool of the queries whose score is above the threshold. The host waits for it."""
        text, tokens = self._text(name)
        found = self.network(vision_embeds=pyramid, text_embeds=text, attention_mask=tokens)
        # As in the library's post-processing: the score of a query is that of the class in the image times its own,
        # and probabilities are resized, not logits. Subtracting their threshold makes them logits for the frame.
        scores = found.pred_logits[0].sigmoid() * found.presence_logits[0].sigmoid()
        return self.frame.to_masks(found.pred_masks[0, scores > self.score_threshold].sigmoid() - 0.5, size)

    def _text(self, name: str) -> tuple[Any, Tensor]:
        """Return the output of the text encoder for a name, and which of its tokens are no padding; computed once."""
        if name not in self._texts:
            tokens = self.tokenizer(
                [name], padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
            ).to(self.device)
            text = self.network.get_text_features(tokens.input_ids, tokens.attention_mask)
            self._texts[name] = (text, tokens.attention_mask)
        return self._texts[name]
