"""Text classifier: class names, their synonyms and prompt templates, embedded by CLIP's text tower.

Letters: N names (all synonyms of all classes), M prompts, K classes, C dimension of CLIP's space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.data.classes import split_synonyms
from clouds.modeling.layers import full_precision

_SIZES = ("small", "medium", "large")
# The 14 templates of ViLD (Gu et al., ICLR 2022, appendix), in the order of the published checkpoints.
VILD_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in _SIZES),
    *(f"This is a photo of a {size} {{}}." for size in _SIZES),
    *(f"There is a {size} {{}} in the scene." for size in _SIZES),
)


@dataclass(frozen=True)
class TextClassifier:
    """Unit-norm text embeddings of every name of every class.

    Attributes:
        embeddings: (N, C) float, one row of unit norm per name, ordered by class.
        names_per_class: number of names of each of the K classes.
    """

    embeddings: Tensor
    names_per_class: tuple[int, ...]

    @full_precision
    def logits(self, x: Tensor, void: Tensor, logit_scale: Tensor) -> Tensor:
        """Compute the scaled cosine similarity with the best name of each class, and with the void embedding.

        Args:
            x: (..., C) embeddings in CLIP's space, of any norm.
            void: (1, C) learnt embedding of "no object", of any norm.
            logit_scale: scalar, logarithm of the inverse temperature; its exponential is capped at 100 as in CLIP.

        Returns:
            (..., K + 1) logits, void last, float32.
        """
        x = x.float()
        weights = torch.cat([self.embeddings, F.normalize(void, dim=-1)])
        similarity = logit_scale.exp().clamp(max=100) * F.normalize(x, dim=-1) @ weights.T
        *per_class, void_logit = similarity.split([*self.names_per_class, 1], dim=-1)
        return torch.stack([*(names.max(dim=-1).values for names in per_class), void_logit.squeeze(-1)], dim=-1)


def prompts_for(class_names: Sequence[str], templates: Sequence[str] = VILD_TEMPLATES) -> list[str]:
    """Insert every name into every template; ordered by class, then by name, then by template."""
    names = [name for class_name in class_names for name in split_synonyms(class_name)]
    return [template.format(name) for name in names for template in templates]


def build_text_classifier(
    encode: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str] = VILD_TEMPLATES,
    batch_size: int = 128,
) -> TextClassifier:
    """Embed all names: normalize each prompt, average over the templates, normalize again (as in ViLD).

    Args:
        encode: function from M prompts to (M, C) text features of any norm.
        class_names: K class names; synonyms are separated by commas.
        templates: prompt templates with one `{}` each.
        batch_size: number of prompts that are encoded at once; bounds the memory.
    """
    prompts = prompts_for(class_names, templates)
    chunks = [encode(prompts[start : start + batch_size]) for start in range(0, len(prompts), batch_size)]
    embeddings = F.normalize(torch.cat(chunks), dim=-1)
    embeddings = F.normalize(embeddings.unflatten(0, (-1, len(templates))).mean(dim=1), dim=-1)
    return TextClassifier(embeddings, tuple(len(split_synonyms(name)) for name in class_names))
