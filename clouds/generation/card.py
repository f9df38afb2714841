"""The card of a generated set, in the form that model and data hubs read."""

from collections import Counter
from typing import Any

Row = dict[str, Any]


def card(name: str, description: dict[str, Any], rows: list[Row], rejected: list[Row]) -> str:
    """Markdown with front matter.

    Args:
        name: of the set's folder.
        description: content of its `dataset.json`.
        rows: of its manifest.
        rejected: rows of what was painted and not taken.
    """
    settings, prompts, licence = description["settings"], description["prompts"], description["licence"]
    # A local model's folder is of no use to who reads the card elsewhere.
    model = settings["model"] if settings["model"].count("/") == 1 else settings["model"].rstrip("/").rpartition("/")[2]
    sizes = Counter(f"{row['width']}x{row['height']}" for row in rows)
    seconds = sum(run["seconds"] for run in description["runs"])
    versions = description["runs"][-1]["versions"] if description["runs"] else {}
    table = [
        ("images", f"{len(rows):,}"),
        ("sizes (width x height)", ", ".join(f"{size}: {count:,}" for size, count in sizes.most_common())),
        ("prompts", f"{len(prompts):,}, taken in turn"),
        ("model", model),
        ("fingerprint of the model", settings["fingerprint"]),
        *((key.replace("_", " "), settings[key]) for key in ("revision", "scheduler", "steps", "guidance", "dtype")),
        ("negative prompt", settings["negative_prompt"] or "none"),
        ("base seed", settings["seed"]),
        ("versions", ", ".join(f"{package} {version}" for package, version in versions.items())),
        ("painted in", f"{seconds / 3600:.2f} hours, over all processes"),
        ("painted and not taken", f"{len(rejected):,}"),
    ]
    lines = "\n".join(f"| {key} | {value} |" for key, value in table)
    sample = "\n".join(f"* {prompt}" for prompt in prompts[:5])
    return f"""---
license: {_scalar(licence)}
pretty_name: {_scalar(name)}
task_categories:
- image-segmentation
tags:
- synthetic
- driving
---
# {name}

Street images painted by a text-to-image model, without labels: an unlabelled set for domain-generalized segmentation.

| | |
|---|---|
{lines}

Some of the prompts:

{sample}

## Files

* `images/im_<index>_p<prompt>.png`: the images; each carries its row of the manifest in the PNG text chunk `clouds`.
* `manifest.jsonl`: a row an image: prompt, place of the prompt in the list, seed, attempt, the images that it was
  painted with, height and width, bytes (`size`) and sha256.
* `dataset.json`: settings, the prompts, and what each run did, where and in what time.
* `rejected.jsonl`: what was painted and not taken, with the reason; missing where everything was taken.

## Paint it again

`python generate_txt_im.py --from-manifest <this folder> --folder <a new name>` paints the same images, or with
`--images 3,17,40-60` some of them, and says how many agree bit for bit. They do on the same kind of machine with the
same versions; elsewhere they agree up to rounding.

## Terms

The licence above is that of the model's card. Images that the model's safety checker took offence at, if it has one,
are not in the set: they were painted again with another seed. Such checkers err on both sides.
"""


def _scalar(text: str) -> str:
    """A YAML string that needs no thought."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
