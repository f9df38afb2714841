"""Contact sheet: a grid of images with captions."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP, _MARGIN, _TITLE_HEIGHT, _CAPTION_HEIGHT = 10, 24, 34, 46  # pixels
_INK, _PAPER = (32, 36, 44), (255, 255, 255)


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str], *, title: str, columns: int = 6, cell_width: int = 240
) -> Image.Image:
    """Draw images in a grid, each above the first two lines of its caption.

    Args:
        images: at least one RGB image; shrunk to the width of a column, never enlarged.
        captions: caption of each image.
        title: line at the top.
        columns: largest number of columns.
        cell_width: width of a column in pixels.

    Returns:
        RGB image.

    Raises:
        ValueError: there is no image, or the number of captions differs.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"need a caption for each of at least one image: {len(images)} and {len(captions)} captions")
    columns = min(columns, len(images))
    height = max(round(cell_width * image.height / image.width) for image in images)
    row_height = height + _CAPTION_HEIGHT
    rows = -(-len(images) // columns)
    sheet = Image.new(
        "RGB",
        (2 * _MARGIN + columns * (cell_width + _GAP) - _GAP, 2 * _MARGIN + _TITLE_HEIGHT + rows * row_height),
        _PAPER,
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=ImageFont.load_default(17), anchor="lt")
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = _MARGIN + index % columns * (cell_width + _GAP)
        top = _MARGIN + _TITLE_HEIGHT + index // columns * row_height
        small = image.copy()
        small.thumbnail((cell_width, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (left, top + height - small.height))
        for line, text in enumerate(_two_lines(caption, font, cell_width)):
            draw.text((left, top + height + 5 + 16 * line), text, fill=_INK, font=font, anchor="lt")
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
