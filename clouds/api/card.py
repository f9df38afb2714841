"""Card of a saved network, in the format of model hubs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from clouds.data.classes import short_name

LIBRARY = "clouds"
TAGS = ["semantic-segmentation", "domain-generalization", "open-vocabulary", "mask2former", "clip"]

_TEMPLATE = Path(__file__).parent / "templates/model_card.md"
_METRIC = "mIoU"
# Part of the name of a tower or its weights -> license in its own card or repository.
_TOWER_LICENSES = {"openai": "MIT", "laion": "MIT", "dinov2": "Apache-2.0", "dinov3": "DINOv3 License"}


def model_card(name: str, description: Mapping[str, Any], settings: Mapping[str, Any]) -> ModelCard:
    """Return the card; `str(card)` is Markdown with YAML front matter.

    Args:
        name: id on the hub, or name of the folder.
        description: content of ``clouds.json``.
        settings: settings of the network by dotted config key.
    """
    scores = description.get("scores", {})
    shown = list(dict.fromkeys(metric for each in scores.values() for metric in each if "-" not in metric))
    data = ModelCardData(
        license=description["license"],
        library_name=LIBRARY,
        pipeline_tag="image-segmentation",
        tags=TAGS,
        metrics=["mean_iou"],
        model_name=name.rpartition("/")[2],
        eval_results=[
            EvalResult(
                task_type="image-segmentation",
                dataset_type=data_set,
                dataset_name=data_set,
                metric_type="mean_iou",
                metric_name="mIoU in %",
                metric_value=round(each[_METRIC], 2),
            )
            for data_set, each in scores.items()
            if _METRIC in each
        ]
        or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        name=name,
        classes=[short_name(each) for each in description["classes"]],
        facts=_facts(description, settings),
        license=description["license"],
        tower_license=_tower_license(description["backbone"]),
        protocol=description.get("protocol", "unknown"),
        metrics=shown,
        test_sets=tuple(description.get("test_sets", ())),
        scores={data_set: [_percent(each.get(metric)) for metric in shown] for data_set, each in scores.items()},
    )


def _facts(description: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return (name, value) of what the weights depend on."""
    tower = description["backbone"]
    where = "in model.safetensors" if tower["stored"] else "loaded from its own source"
    short_edge = settings["INPUT.TEST_SHORT_EDGE"]
    return [
        ("image tower", " ".join(filter(None, [tower["name"], tower["pretrained"], f"({where})"]))),
        ("sha256 of the tower", description.get("tower_sha256", "see weights")),
        ("sha256 of model.safetensors", description["weights_sha256"]),
        ("class head", settings["MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"]),
        ("input", f"shorter edge resized to {short_edge} pixels" if short_edge else "image at its own size"),
        ("mean of R, G, B", _rounded(description.get("pixel_mean", []))),
        ("standard deviation", _rounded(description.get("pixel_std", []))),
        ("training data", ", ".join(description.get("train_sets", [])) or "unknown"),
        ("iterations", f"{description['iterations']:,}" if "iterations" in description else "unknown"),
        ("commit", description.get("commit", "unknown")),
        ("version of clouds", description["version"]),
    ]


def _tower_license(tower: Mapping[str, Any]) -> str:
    names = f"{tower['name']} {tower['pretrained']}"
    known = [license for part, license in _TOWER_LICENSES.items() if part in names]
    return known[0] if known else "that of its source"


def _rounded(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
