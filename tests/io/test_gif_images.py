"""Images of GIF files that were joined by damage, told by what their codes stand for; other images are as Pillow and FFmpeg write them."""

import io

import numpy as np
import pytest
from media_files import CONTAINERS, write_media
from PIL import Image

from fgvc_hf.io import gif_images
from fgvc_hf.io.gif_images import GifImage, has_hidden_images, image_blocks, is_one_image


def written(picture: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "gif", **options)
    return file.getvalue()


def test_what_an_image_takes_at_most():
    """A code for each pixel, of a bit more than a colour at first: 4 x 3 + 8 x 4 + 16 x 5 + 32 x 6 + 64 x 7 + 128 x 8 + 4 x 9 bits, or 228 bytes."""
    assert gif_images._most_bytes(256, 2) == 228 + 16 and gif_images._most_bytes(0, 8) == 16
    assert gif_images._most_bytes(512, 2) == (1788 + 256 * 9 + 4 * 10) // 8 + 16
    assert gif_images._most_bytes(3072, 8) == (256 * 9 + 512 * 10 + 1024 * 11 + 1280 * 12) // 8 + 16


@pytest.mark.parametrize("colours", [2, 5, 16, 200, 256])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (64, 48), (150, 199)])
@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("block", [1, 9])
def test_images_are_their_own(colours, size, interlace, block):
    """Noise, and blocks of one colour, whose codes stand for many pixels; larger ones fill the table of codes again and again."""
    colour = np.random.default_rng(colours).integers(0, colours, size).astype(np.uint8)
    content = written(np.kron(colour, np.ones((block, block), np.uint8)), interlace=interlace)
    (image,) = image_blocks(content)
    assert image.pixels == size[0] * size[1] * block**2
    assert is_one_image(image) and not has_hidden_images(content)
    for other in image, image._replace(codes=image.codes[len(image.codes) // 2 :]):  # all of it again, or a part
        joined = image._replace(codes=image.codes + other.codes)
        assert is_one_image(joined) is (len(other.codes) <= gif_images.SPARE)


def test_codes_by_hand():
    """Of two bits and a third: 4 starts anew, 5 ends, and 6 is the first that stands for two pixels."""

    def codes(*numbers: int) -> bytes:
        return sum(number << 3 * i for i, number in enumerate(numbers)).to_bytes(1 + 3 * len(numbers) // 8, "little")

    behind = bytes(17)
    assert is_one_image(GifImage(0, 3, 2, codes(4, 1, 6)))
    assert not is_one_image(GifImage(0, 3, 2, codes(4, 1, 7)))  # not known yet
    assert not is_one_image(GifImage(0, 3, 2, codes(4, 6))) and not is_one_image(GifImage(0, 3, 2, codes(6)))
    assert is_one_image(GifImage(0, 3, 2, codes(4, 1, 4, 2, 4, 3)))
    assert not is_one_image(GifImage(0, 9, 2, codes(4, 1, 4, 6)))  # forgotten
    assert is_one_image(GifImage(0, 9, 2, codes(4, 1, 5) + behind[:-2])) and not is_one_image(
        GifImage(0, 9, 2, codes(4, 1, 5) + behind)
    )
    assert not is_one_image(GifImage(0, 3, 2, codes(4, 1, 6) + behind))  # all pixels are there
    assert is_one_image(GifImage(0, 3, 2, codes(4, 1)))  # one that is not whole


def test_two_images_of_a_clip_that_were_joined(tmp_path):
    """Pictures of few colours take few bytes: two of them are no more than one may take."""
    squares = np.random.default_rng(0).integers(0, 2, (6, 12, 16, 1)).astype(np.uint8)
    frames = 255 * np.kron(squares, np.ones((1, 4, 4, 3), np.uint8))
    write_media(tmp_path / "clip.gif", frames, *CONTAINERS["frames.gif"])
    content = (tmp_path / "clip.gif").read_bytes()
    images = list(image_blocks(content))
    assert len(images) == 6 and not has_hidden_images(content)
    for before, after in zip(images[1:4], images[2:5], strict=True):
        codes = content.index(after.codes[:20], after.start) - 1  # the length of its first block
        end = content.rindex(b"\0\x21\xf9", before.start, after.start)
        damaged = content[: end - 20] + bytes(content[end - 20 : end]) + content[codes:]
        assert len(before.codes) + len(after.codes) < gif_images._most_bytes(before.pixels, before.bits)
        assert len(list(image_blocks(damaged))) == 5 and has_hidden_images(damaged)


def test_the_largest_images_are_looked_at_first_and_not_all(monkeypatch):
    content = written(np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8))
    (image,) = image_blocks(content)
    joined, small = image._replace(codes=2 * image.codes), image._replace(codes=image.codes[:10])
    monkeypatch.setattr(gif_images, "image_blocks", lambda data: iter([small, small, joined, small]))
    for most, told in ((len(joined.codes), True), (len(joined.codes) - 1, False)):
        monkeypatch.setattr(gif_images, "DECODED", most)
        assert has_hidden_images(b"") is told


@pytest.mark.parametrize("bits", [11, 12, 40, 255])
def test_colours_have_no_more_bits_than_codes(bits):
    content = written(np.zeros((5, 5), np.uint8))
    (image,) = image_blocks(content)
    at = content.index(image.codes) - 2  # before the length of the only block
    damaged = content[:at] + bytes([bits]) + content[at + 1 :]
    if bits == 11:
        assert [image.bits for image in image_blocks(damaged)] == [11]
    else:
        with pytest.raises(ValueError, match=f"colours of {bits} bits"):
            list(image_blocks(damaged))
