"""What is in a generated set: counts, sizes, prompts, damage, and a sheet to look at."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from clouds.errors import UserError
from clouds.generation.dataset import read_description, read_manifest, read_record
from clouds.utils.atomic import atomic_file
from clouds.utils.images import DECODE_ERRORS, IMAGE_SUFFIXES

SHEET = "contact_sheet.jpg"
_NAME = re.compile(r"im_(\d+)_p(\d+)$")
_CELL, _GAP, _MARGIN, _COLUMNS, _MOST = 240, 10, 24, 6, 60  # pixels; pictures in a row, and on the sheet
_INK, _PAPER = (32, 36, 44), (255, 255, 255)


@dataclass(frozen=True)
class _Picture:
    path: Path
    size: tuple[int, int]  # width, height
    bytes: int
    prompt_index: int | None
    index: int | None


def report(folder: Path) -> str:
    """Look through a set, also one of other makers, and draw its contact sheet into it.

    Args:
        folder: that holds the folder `images`.

    Returns:
        Text of some lines to show.

    Raises:
        UserError: there is no image.
    """
    pictures, damaged = _look(folder)
    if not pictures:
        raise UserError(f"There is no readable image in {folder / 'images'}; see that --folder names a generated set.")
    rows = read_manifest(folder / "manifest.jsonl")
    rejected = read_manifest(folder / "rejected.jsonl")
    described = (folder / "dataset.json").is_file()
    prompts: list[str] = read_description(folder / "dataset.json")["prompts"] if described else []
    sizes = Counter(picture.size for picture in pictures)
    lines = [
        f"{folder}: {len(pictures):,} images, {sum(picture.bytes for picture in pictures) / 1e6:,.1f} MB",
        *(f"  {count:>7,} of {width}x{height} (width x height)" for (width, height), count in sizes.most_common()),
        *_prompt_lines(pictures, prompts),
        *_similarity_lines(rows),
        *(f"  {count:>7,} painted and not taken: {reason}" for reason, count in _reasons(rejected)),
        *_manifest_lines(folder, pictures, rows),
        *(f"damaged: {path.relative_to(folder)} ({why})" for path, why in damaged),
    ]
    sheet = _draw(pictures, prompts, f"{folder.name}: {len(pictures):,} images")
    with atomic_file(folder / SHEET) as part:
        sheet.save(part, "JPEG", quality=88)
    lines.append(f"contact sheet: {folder / SHEET}")
    return "\n".join(lines)


def _look(folder: Path) -> tuple[list[_Picture], list[tuple[Path, str]]]:
    """The images sorted by index, decoded to the last pixel, and those that cannot be."""
    files = sorted(file for file in (folder / "images").rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    pictures, damaged = [], []
    for path in tqdm(files, unit="image", desc="reading", disable=not files):
        data = path.read_bytes()
        try:
            with Image.open(path) as image:
                image.load()
                size = image.size
        except DECODE_ERRORS as error:
            damaged.append((path, str(error).replace(str(path), path.name)))
            continue
        record = read_record(data) if b"clouds" in data[:4096] else None
        name = _NAME.search(path.stem)
        index, prompt_index = (int(name[1]), int(name[2])) if name else (None, None)
        if record is not None:
            index, prompt_index = record["index"], record["prompt_index"]
        pictures.append(_Picture(path, size, len(data), prompt_index, index))
    order = sorted(pictures, key=lambda picture: (picture.index is None, picture.index or 0, str(picture.path)))
    return order, damaged


def _prompt_lines(pictures: Sequence[_Picture], prompts: Sequence[str]) -> list[str]:
    counts = Counter(picture.prompt_index for picture in pictures if picture.prompt_index is not None)
    if not counts:
        return ["prompts: the files' names do not say which (im_<index>_p<prompt>.png does)"]
    known = len(prompts) or max(counts) + 1
    per_prompt = [counts[place] for place in range(known)]
    lines = [
        f"prompts: {sum(count > 0 for count in per_prompt):,} of {known:,}{'' if prompts else ' or more'} have images; "
        f"images a prompt: least {min(per_prompt)}, median {np.median(per_prompt):g}, most {max(per_prompt)}"
    ]
    absent = [place for place, count in enumerate(per_prompt) if not count]
    lines += [f"  no image: {place} {prompts[place] if prompts else ''}".rstrip() for place in absent[:10]]
    return lines + ([f"  ... and {len(absent) - 10} more"] if len(absent) > 10 else [])


def _similarity_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    found = [row["similarity"] for row in rows if row.get("similarity") is not None]
    if not found:
        return []
    quantiles = zip((1, 5, 25, 50, 75), np.percentile(found, (1, 5, 25, 50, 75)), strict=True)
    return ["similarity to the prompt: " + ", ".join(f"{share} % below {value:.3f}" for share, value in quantiles)]


def _reasons(rejected: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """Their kinds, the numbers in them left out."""
    return Counter(re.split(r" \(| \d| of image| -?\.?\d", str(row.get("reason")))[0] for row in rejected).most_common()


def _manifest_lines(folder: Path, pictures: Sequence[_Picture], rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["manifest: none"]
    there = {picture.path.relative_to(folder).as_posix(): picture.bytes for picture in pictures}
    listed = {row["file_name"]: row["size"] for row in rows}
    lines = [f"manifest: {len(rows):,} rows"]
    for what, names in (
        ("in the manifest, but not there or damaged", listed.keys() - there.keys()),
        ("there, but not in the manifest", there.keys() - listed.keys()),
        ("of another size than in the manifest", {n for n in listed.keys() & there.keys() if listed[n] != there[n]}),
    ):
        if names:
            lines.append(
                f"  {len(names):,} {what}, the first is {min(names)}; running the set's command again puts it right"
            )
    return lines


def _draw(pictures: Sequence[_Picture], prompts: Sequence[str], title: str) -> Image.Image:
    """At most `_MOST` pictures, spread evenly, each above its number and the beginning of its prompt."""
    shown = [pictures[int(place)] for place in np.linspace(0, len(pictures) - 1, min(_MOST, len(pictures)))]
    columns = min(_COLUMNS, len(shown))
    height = max(round(_CELL * picture.size[1] / picture.size[0]) for picture in shown)
    line = 46
    lines = -(-len(shown) // columns)
    sheet = Image.new(
        "RGB",
        (2 * _MARGIN + columns * (_CELL + _GAP) - _GAP, 2 * _MARGIN + 34 + lines * (height + line)),
        _PAPER,
    )
    draw, text = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=ImageFont.load_default(17), anchor="lt")
    for place, picture in enumerate(shown):
        left = _MARGIN + place % columns * (_CELL + _GAP)
        top = _MARGIN + 34 + place // columns * (height + line)
        with Image.open(picture.path) as image:
            image.draft("RGB", (2 * _CELL, 2 * height))
            small = image.convert("RGB")
        small.thumbnail((_CELL, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (left, top + height - small.height))
        caption = _caption(picture, prompts)
        for number, part in enumerate(_fit(caption, text, _CELL)):
            draw.text((left, top + height + 5 + 16 * number), part, fill=_INK, font=text, anchor="lt")
    return sheet


def _caption(picture: _Picture, prompts: Sequence[str]) -> str:
    place = picture.prompt_index
    words = prompts[place] if place is not None and place < len(prompts) else picture.path.stem
    return words if picture.index is None else f"{picture.index}. {words}"


def _fit(words: str, font: Any, width: int) -> list[str]:
    """The first two lines of a text."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) == 2:
            while lines[-1] and font.getlength(f"{lines[-1]} ...") > width:
                lines[-1] = lines[-1].rpartition(" ")[0]
            return [lines[0], f"{lines[-1]} ..."]
        else:
            lines.append(word)
    return lines
