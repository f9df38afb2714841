"""Contact sheet: a grid of images with captions."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from clouds.visualization.sheet import legend

_GAP, _MARGIN, _TITLE_HEIGHT, _CAPTION_HEIGHT = 10, 24, 34, 46  # pixels
_INK, _PAPER = (32, 36, 44), (255, 255, 255)


def contact_sheet(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    *,
    title: str,
    columns: int = 6,
    cell_width: int = 240,
    classes: Sequence[str] = (),
    colors: Sequence[Sequence[int]] = (),
) -> Image.Image:
    """Draw images in a grid, each above the first two lines of its caption.

    Args:
        images: at least one RGB image; shrunk to the width of a column, never enlarged.
        captions: caption of each image.
        title: line at the top.
        columns: largest number of columns.
        cell_width: width of a column in pixels.
        classes: names in the legend below the grid; no legend without names.
        colors: RGB, 0..255, for each of `classes`.

    Returns:
        RGB image.

    Raises:
        ValueError: there is no image, or the number of captions differs.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"need a caption for each of at least one image: {len(images)} and {len(captions)} captions")
    columns = min(columns, len(images))
    shapes = [max(1, round(min(cell_width, each.width) * each.height / each.width)) for each in images]
    heights = [max(shapes[start : start + columns]) for start in range(0, len(images), columns)]
    width = columns * (cell_width + _GAP) - _GAP
    key = legend(classes, colors, width)
    bottom = _MARGIN + _TITLE_HEIGHT + sum(heights) + len(heights) * _CAPTION_HEIGHT
    sheet = Image.new("RGB", (2 * _MARGIN + width, bottom + key.height + _MARGIN), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=ImageFont.load_default(17), anchor="lt")
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row = index // columns
        left = _MARGIN + index % columns * (cell_width + _GAP)
        end = _MARGIN + _TITLE_HEIGHT + sum(heights[: row + 1]) + row * _CAPTION_HEIGHT
        small = image.copy()
        small.thumbnail((cell_width, heights[row]), Image.Resampling.LANCZOS)
        sheet.paste(small, (left, end - small.height))
        for line, text in enumerate(_two_lines(caption, font, cell_width)):
            draw.text((left, end + 5 + 16 * line), text, fill=_INK, font=font, anchor="lt")
    sheet.paste(key, (_MARGIN, bottom))
    return sheet


def _two_lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Wrap a text at `width` pixels; a text of more than two lines ends in an ellipsis."""
    lines = [""]
    for word in text.split():
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
