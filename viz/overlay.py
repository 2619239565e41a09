"""Text on images."""

from __future__ import annotations

import functools

import numpy as np

LINES = 32  # of the table, in an image's height
INK, FAINT = (30, 30, 34), (110, 110, 116)


@functools.cache
def _font(height: int):
    from matplotlib.font_manager import findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont("DejaVu Sans"), height)


def annotated(image: np.ndarray, title: str, corner: str, rows: list[tuple]) -> np.ndarray:
    """`image` with a title top left, `corner` top right, and below the title a table.

    rows: (colour (3,) in 0…1 or None, cells) each; the first cell is left-aligned, the others are right-aligned
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    unit = max(10, image.shape[0] // LINES)
    margin, font = unit // 2, _font(unit * 3 // 4)
    draw.text((margin, margin), title, INK, _font(unit))
    draw.text((image.shape[1] - margin, margin), corner, INK, _font(unit), anchor="ra")
    widths = [max(draw.textlength(cells[n], font) for _, cells in rows) for n in range(len(rows[0][1]))] if rows else []
    y = margin + 3 * unit // 2
    for colour, cells in rows:
        x = margin
        if colour is not None:
            fill = tuple(int(255 * c) for c in colour)
            draw.rectangle((x, y + unit // 8, x + unit // 2, y + 5 * unit // 8), fill=fill)
        x += unit * 3 // 4
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            at = (x, y) if n == 0 else (x + width, y)
            draw.text(at, cell, FAINT if colour is None else INK, font, anchor="la" if n == 0 else "ra")
            x += width + unit
        y += unit
    return np.asarray(picture)
