"""The images of a GIF file: where each begins, and whether one of them holds more than it can."""

import re
from collections.abc import Generator


SPARE = 16  # bytes of an image beyond those of its pixels, for codes that start anew
IMAGE = re.compile(rb"\x21\xf9\x04.{4}\0\x2c", re.DOTALL)  # a graphic control extension and the start of an image


def has_hidden_images(data) -> bool:
    """Whether an image begins within the blocks of another, or behind a trailer where there was none.

    Raises:
        `IndexError`: the file ends before the trailer.
        `ValueError`: as [`image_blocks`].
    """
    starts = set(image_blocks(data))
    return any(found.end() - 1 not in starts for found in IMAGE.finditer(data))


def image_blocks(data) -> Generator[int]:
    """Yield where each image of a file begins.

    Raises:
        `IndexError`: the file ends before the trailer.
        `ValueError`: something is no block, or more than an image can take, because the end of one and the start of another are lost.
    """

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    position = 13 + colours(data[10])
    while (kind := data[position]) != 0x3B:
        if kind == 0:  # some programs write more ends than blocks
            position += 1
            continue
        most = None
        if kind == 0x21:  # an extension
            position += 2
        elif kind == 0x2C:
            yield position
            width, height = (data[position + at] | data[position + at + 1] << 8 for at in (5, 7))
            position += 11 + colours(data[position + 9])
            most = _most_bytes(width * height, data[position - 1])
        else:
            raise ValueError(f"{kind} begins no block of a GIF.")
        held = 0
        while size := data[position]:
            position += 1 + size
            held += size
        if most is not None and held > most:
            raise ValueError("An image of a GIF has more bytes than its pixels can take.")
        position += 1


def _most_bytes(pixels: int, bits: int) -> int:
    """What an image takes at most, with a code for every pixel: codes grow by a bit each time that their number doubles, up to twelve."""
    codes, total = pixels, 0
    for width in range(bits + 1, 12):
        some = min(codes, 1 << width - 1)
        codes, total = codes - some, total + some * width
    return (total + codes * 12) // 8 + SPARE


__all__ = ["has_hidden_images", "image_blocks"]
