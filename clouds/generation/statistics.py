"""Statistics of a generated set: counts, sizes, prompts, damaged files, and a contact sheet."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from clouds.errors import UserError
from clouds.generation.records import CHUNK, read_description, read_manifest, read_reasons, read_record
from clouds.utils.atomic import write_atomically
from clouds.utils.folders import image_files
from clouds.utils.images import encoded, read_image
from clouds.utils.jsonl import Row
from clouds.visualization.contact_sheet import contact_sheet

SHEET = "contact_sheet.jpg"
_NAME = re.compile(r"im_([0-9]{1,8})_p([0-9]{1,6})$")  # numbers up to the bounds in `plan`
_MAX_SHOWN = 60  # images on the contact sheet
_CELL_WIDTH = 240  # pixels


@dataclass(frozen=True)
class _ImageFile:
    path: Path
    width: int
    height: int
    bytes: int
    index: int | None
    prompt_index: int | None


def report(folder: Path) -> str:
    """Describe a set of generated images and write its contact sheet into the folder.

    Args:
        folder: folder of the set. Of sets that were made by other programs it only needs to have the folder `images`.

    Returns:
        Lines of text.

    Raises:
        UserError: there is no readable image.
    """
    files, damaged = _read(folder)
    if not files:
        raise UserError(f"There is no readable image in {folder / 'images'}; see that --folder names a generated set.")
    rows = read_manifest(folder / "manifest.jsonl")
    rejected = read_reasons(folder / "rejected.jsonl")
    has_description = (folder / "dataset.json").is_file()
    prompts: list[str] = read_description(folder / "dataset.json")["prompts"] if has_description else []
    sizes = Counter((file.width, file.height) for file in files)
    lines = [
        f"{folder}: {len(files):,} images, {sum(file.bytes for file in files) / 1e6:,.1f} MB",
        *(f"  {count:>7,} of {width}x{height} (width x height)" for (width, height), count in sizes.most_common()),
        *_prompt_lines(files, prompts),
        *_similarity_lines(rows),
        *(f"  {count:>7,} generated and rejected: {reason}" for reason, count in _reasons(rejected)),
        *_manifest_lines(folder, files, rows),
        *(f"damaged: {sentence}" for sentence in damaged),
    ]
    sheet = _contact_sheet(files, prompts, f"{folder.name}: {len(files):,} images")
    write_atomically(folder / SHEET, encoded(sheet, "JPEG", quality=88))
    lines.append(f"contact sheet: {folder / SHEET}")
    return "\n".join(lines)


def _read(folder: Path) -> tuple[list[_ImageFile], list[str]]:
    """Decode all images; return those that can be read, sorted by index, and a sentence about each other one."""
    paths = image_files(folder / "images")
    files: list[_ImageFile] = []
    damaged: list[str] = []
    for path in tqdm(paths, unit="image", desc="reading", disable=not paths):
        try:
            width, height = read_image(str(path)).size
        except UserError as error:
            damaged.append(str(error))
            continue
        data = path.read_bytes()
        record = read_record(data, intact=True) if CHUNK.encode() in data[:4096] else None
        name = _NAME.search(path.stem)
        index, prompt_index = (int(name[1]), int(name[2])) if name else (None, None)
        if record is not None:
            index, prompt_index = record["index"], record["prompt_index"]
        files.append(_ImageFile(path, width, height, len(data), index, prompt_index))
    return sorted(files, key=lambda file: (file.index is None, file.index or 0, str(file.path))), damaged


def _prompt_lines(files: Sequence[_ImageFile], prompts: Sequence[str]) -> list[str]:
    counts = Counter(file.prompt_index for file in files if file.prompt_index is not None)
    if not counts:
        return ["prompts: unknown, the file names do not contain them (im_<index>_p<prompt>.png)"]
    known = len(prompts) or max(counts) + 1
    per_prompt = [counts[index] for index in range(known)]
    lines = [
        f"prompts: {sum(count > 0 for count in per_prompt):,} of {known:,}{'' if prompts else ' or more'} have images; "
        f"images per prompt: min {min(per_prompt)}, median {np.median(per_prompt):g}, max {max(per_prompt)}"
    ]
    absent = [index for index, count in enumerate(per_prompt) if not count]
    lines += [f"  no image: {index} {prompts[index] if prompts else ''}".rstrip() for index in absent[:10]]
    return lines + ([f"  ... and {len(absent) - 10} more"] if len(absent) > 10 else [])


def _similarity_lines(rows: Sequence[Row]) -> list[str]:
    found = [row["similarity"] for row in rows if row.get("similarity") is not None]
    if not found:
        return []
    shares = (1, 5, 25, 50, 75)
    quantiles = zip(shares, np.percentile(found, shares), strict=True)
    return ["similarity to the prompt: " + ", ".join(f"{share} % below {value:.3f}" for share, value in quantiles)]


def _reasons(rejected: Sequence[str]) -> list[tuple[str, int]]:
    """Count the reasons for rejection, without the numbers in them."""
    return Counter(re.split(r" \(| \d| of image| -?\.?\d", reason)[0] for reason in rejected).most_common()


def _manifest_lines(folder: Path, files: Sequence[_ImageFile], rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["manifest: none"]
    present = {file.path.relative_to(folder).as_posix(): file.bytes for file in files}
    listed = {row["file_name"]: row["size"] for row in rows}
    differing = {name for name in listed.keys() & present.keys() if listed[name] != present[name]}
    lines = [f"manifest: {len(rows):,} rows"]
    for problem, names in (
        ("in the manifest, but missing or damaged", listed.keys() - present.keys()),
        ("present, but not in the manifest", present.keys() - listed.keys()),
        ("of another size than in the manifest", differing),
    ):
        if names:
            lines.append(f"  {len(names):,} {problem}, first {min(names)}; run the set's command again to repair it")
    return lines


def _contact_sheet(files: Sequence[_ImageFile], prompts: Sequence[str], title: str) -> Image.Image:
    """Draw at most `_MAX_SHOWN` images, evenly spaced, each with its index and prompt."""
    shown = [files[int(place)] for place in np.linspace(0, len(files) - 1, min(_MAX_SHOWN, len(files)))]
    images = [_thumbnail(file) for file in shown]
    return contact_sheet(images, [_caption(file, prompts) for file in shown], title=title, cell_width=_CELL_WIDTH)


def _thumbnail(file: _ImageFile) -> Image.Image:
    """Read an image at about twice the size on the sheet, which is small in memory."""
    small = read_image(str(file.path))
    small.thumbnail((2 * _CELL_WIDTH, 2 * small.height), Image.Resampling.LANCZOS)
    return small


def _caption(file: _ImageFile, prompts: Sequence[str]) -> str:
    index = file.prompt_index
    text = prompts[index] if index is not None and index < len(prompts) else file.path.stem
    return text if file.index is None else f"{file.index}. {text}"
