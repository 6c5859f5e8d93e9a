"""The images of a GIF file: where each begins, and whether one of them holds more than it can."""

import re
from collections.abc import Generator
from typing import NamedTuple


MOST_BITS = 11  # of a colour, one less than of a code
SPARE = 16  # bytes of an image beyond those of its pixels, for codes that start anew
# Bytes of images whose codes are looked at, the largest images first: those that were joined are among them
DECODED = 1 << 20
IMAGE = re.compile(rb"\x21\xf9\x04.{4}\0\x2c", re.DOTALL)  # a graphic control extension and the start of an image


class GifImage(NamedTuple):
    """An image: where it begins, its number of pixels, the bits of its colours, and its codes."""

    start: int
    pixels: int
    bits: int
    codes: bytes


def has_hidden_images(data) -> bool:
    """Whether an image begins within the blocks of another, or behind a trailer where there was none.

    Raises:
        `IndexError`: the file ends before the trailer.
        `ValueError`: as [`image_blocks`].
    """
    images = list(image_blocks(data))
    starts = {image.start for image in images}
    if any(found.end() - 1 not in starts for found in IMAGE.finditer(data)):
        return True
    looked_at = 0
    for image in sorted(images, key=lambda image: -len(image.codes)):
        looked_at += len(image.codes)
        if looked_at > DECODED:
            break
        if not is_one_image(image):
            return True
    return False


def image_blocks(data) -> Generator[GifImage]:
    """Yield the images of a file.

    Raises:
        `IndexError`: the file ends before the trailer.
        `ValueError`: something is no block, or more than an image can take, because the end of one and the start of another are lost; or
            colours have more bits than codes.
    """

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    position = 13 + colours(data[10])
    while (kind := data[position]) != 0x3B:
        start = position
        if kind == 0:  # some programs write more ends than blocks
            position += 1
            continue
        if kind == 0x21:  # an extension
            position += 2
        elif kind == 0x2C:
            width, height = (data[position + at] | data[position + at + 1] << 8 for at in (5, 7))
            position += 11 + colours(data[position + 9])
            bits = data[position - 1]
            if bits > MOST_BITS:
                raise ValueError(f"An image of a GIF has colours of {bits} bits.")
        else:
            raise ValueError(f"{kind} begins no block of a GIF.")
        blocks = []
        while size := data[position]:
            blocks.append(data[position + 1 : position + 1 + size])
            position += 1 + size
        position += 1
        if kind == 0x2C:
            image = GifImage(start, width * height, bits, b"".join(blocks))
            if len(image.codes) > _most_bytes(image.pixels, bits):
                raise ValueError("An image of a GIF has more bytes than its pixels can take.")
            yield image


def _most_bytes(pixels: int, bits: int) -> int:
    """What an image takes at most, with a code for every pixel: codes grow by a bit each time that their number doubles, up to twelve."""
    codes, total = pixels, 0
    for width in range(bits + 1, 12):
        some = min(codes, 1 << width - 1)
        codes, total = codes - some, total + some * width
    return (total + codes * 12) // 8 + SPARE


def is_one_image(image: GifImage) -> bool:
    """Whether the codes of an image (LZW) are known, and its last pixel, or the code that ends it, is at the end of its blocks."""
    clear, width, previous, pixels = 1 << image.bits, image.bits + 1, 0, 0
    lengths = [1] * clear + [0, 0]  # pixels that each code stands for; two codes start anew and end
    value = held = 0  # bits that are read and not yet used
    for at, byte in enumerate(image.codes):
        value, held = value | byte << held, held + 8
        while held >= width:
            code = value & ((1 << width) - 1)
            value, held = value >> width, held - width
            if code == clear + 1 or pixels >= image.pixels:
                return at + SPARE >= len(image.codes)
            if code == clear:
                del lengths[clear + 2 :]
                width, previous = image.bits + 1, 0
                continue
            if code > len(lengths) - (not previous):
                return False
            length = lengths[code] if code < len(lengths) else previous + 1
            if previous and len(lengths) < 4096:
                lengths.append(previous + 1)
                width += len(lengths) == 1 << width and width < 12
            previous, pixels = length, pixels + length
    return True


__all__ = ["has_hidden_images", "image_blocks", "is_one_image"]
