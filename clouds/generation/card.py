"""Dataset card of a generated set, in the format of model and data hubs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from clouds.utils.jsonl import Row

_TEMPLATE = Path(__file__).parent / "templates/dataset_card.md"
_PROMPTS = 5  # prompts that the card shows


def dataset_card(
    name: str, description: Mapping[str, Any], rows: Sequence[Row], rejected: Sequence[Row]
) -> DatasetCard:
    """Return the card; `str(card)` is Markdown with YAML front matter.

    Args:
        name: name of the set's folder.
        description: content of its `dataset.json`.
        rows: rows of its manifest.
        rejected: rows of the images that were rejected.
    """
    data = DatasetCardData(
        license=description["licence"],
        pretty_name=name,
        task_categories=["image-segmentation"],
        tags=["synthetic", "driving"],
    )
    return DatasetCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        name=name,
        facts=_facts(description, rows, rejected),
        prompts=description["prompts"][:_PROMPTS],
    )


def _facts(description: Mapping[str, Any], rows: Sequence[Row], rejected: Sequence[Row]) -> list[tuple[str, Any]]:
    """(name, value) of everything that a user of the set may ask for."""
    settings, runs = description["settings"], description["runs"]
    # The folder of a local model means nothing elsewhere; a name on a hub has one slash.
    model = settings["model"] if settings["model"].count("/") == 1 else settings["model"].rstrip("/").rpartition("/")[2]
    sizes = Counter(f"{row['width']}x{row['height']}" for row in rows)
    versions = runs[-1]["versions"] if runs else {}
    return [
        ("images", f"{len(rows):,}"),
        ("sizes (width x height)", ", ".join(f"{size}: {count:,}" for size, count in sizes.most_common())),
        ("license of each image", description["licence"]),
        ("prompts", f"{len(description['prompts']):,}, taken in turn"),
        ("model", model),
        ("digest of the model", settings["fingerprint"]),
        *((key, settings[key]) for key in ("revision", "scheduler", "steps", "guidance", "dtype")),
        ("negative prompt", settings["negative_prompt"] or "none"),
        ("base seed", settings["seed"]),
        ("versions", ", ".join(f"{package} {version}" for package, version in versions.items())),
        ("time", f"{sum(run['seconds'] for run in runs) / 3600:.2f} hours, over all processes"),
        ("rejected", f"{len(rejected):,}"),
    ]
