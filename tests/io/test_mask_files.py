"""Mask files hold ids: whatever stores them, they are read as they are stored, or refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fgvc_hf import read_mask
from fgvc_hf.io.masks import davis_palette, own_palette, write_mask


IDS = np.zeros((21, 30), np.uint8)
IDS[3:8, 4:9], IDS[10:15, 4:9], IDS[16:20, 20:30] = 1, 2, 3


def packed(ids: np.ndarray, depth: int) -> list[bytes]:
    """Rows of `depth` bits for each pixel."""
    per = 8 // depth
    padded = np.pad(ids, ((0, 0), (0, -ids.shape[1] % per))).reshape(len(ids), -1, per).astype(int)
    shifts = 8 - depth * (np.arange(per) + 1)
    return [bytes(row) for row in (padded << shifts).sum(axis=-1).tolist()]


def write_png(path, ids, depth: int, palette: bool):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], depth, 3 if palette else 0, 0, 0, 0)
    colours = chunk(b"PLTE", bytes(range(3 * 2**depth))) + chunk(b"tRNS", b"\0\x80") if palette else b""
    rows = b"".join(b"\0" + row for row in packed(ids, depth))
    parts = chunk(b"IHDR", header), colours, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_tiff(path, ids, depth: int, photometric: int):
    data, (height, width) = b"".join(packed(ids, depth)), ids.shape
    values = {
        256: width,
        257: height,
        258: depth,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(values)) + entries + b"\0" * 4
    )


def test_ids_of_wide_pixels_are_from_0_to_65535(tmp_path):
    for name, least, most in (("a", 0, 65_535), ("b", 0, 65_536), ("c", -1, 5)):
        Image.fromarray(np.array([[least, most], [3, 4]], np.int32)).save(tmp_path / f"{name}.tif")
    assert read_mask(tmp_path / "a.tif").tolist() == [[0, 65_535], [3, 4]]
    for name, held in (("b", "0 to 65536"), ("c", "-1 to 5")):
        with pytest.raises(ValueError, match=rf"{name}.tif: must .* 0 to 65535, but it holds {held}"):
            read_mask(tmp_path / f"{name}.tif")
    write_mask(tmp_path / "d.png", np.array([[0, 65_535]]))
    assert read_mask(tmp_path / "d.png").tolist() == [[0, 65_535]]
    for wrong in ([[0, 65_536]], [[-1, 0]]):
        with pytest.raises(ValueError, match="a mask file holds ids from 0 to 65535"):
            write_mask(tmp_path / "e.png", np.array(wrong))


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("kind", ["grey", "palette", "tiff"])
def test_few_bits(tmp_path, depth, kind):
    ids = IDS > 0 if depth == 1 else IDS
    path = tmp_path / ("a.tif" if kind == "tiff" else "a.png")
    write_tiff(path, ids, depth, 1) if kind == "tiff" else write_png(path, ids, depth, kind == "palette")
    np.testing.assert_array_equal(read_mask(path), ids)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tif", "a.PNG"])
def test_grey_levels_and_palettes(tmp_path, name):
    Image.fromarray(IDS).save(tmp_path / name)
    np.testing.assert_array_equal(read_mask(tmp_path / name), IDS)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits(tmp_path, name):
    ids = IDS.astype(np.uint16) * 20_001
    Image.fromarray(ids).save(tmp_path / name)
    read = read_mask(tmp_path / name)
    np.testing.assert_array_equal(read, ids)
    write_mask(tmp_path / "again.png", read)
    np.testing.assert_array_equal(read_mask(tmp_path / "again.png"), ids)


@pytest.mark.parametrize("palette", [davis_palette, own_palette])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_a_known_palette(tmp_path, palette, mode):
    Image.fromarray(palette()[IDS]).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), IDS)


def test_transparent_pixels_are_background(tmp_path):
    alpha = Image.fromarray(np.where(IDS > 0, 255, 0).astype(np.uint8))
    Image.merge("LA", [Image.fromarray(IDS + 4), alpha]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), np.where(IDS > 0, IDS + 4, 0))


@pytest.mark.parametrize("colour", [(255, 255, 255), (3, 200, 90), (128, 0, 0)])
def test_the_colour_of_transparent_pixels_says_nothing(tmp_path, colour):
    """As drawing programs save what was erased: white for instance, or the colour of an object."""
    picture = np.dstack([davis_palette()[IDS], np.where(IDS > 0, 255, 0).astype(np.uint8)])
    picture[IDS == 0, :3] = colour
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), IDS)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 0, 0)])
def test_a_picture_that_is_all_transparent_holds_no_object(tmp_path, colour):
    Image.new("RGBA", (9, 5), (*colour, 0)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), np.zeros((5, 9)))


def test_palette_with_transparency_keeps_its_indices(tmp_path):
    image = Image.fromarray(IDS, "P")
    image.putpalette(davis_palette().tobytes())
    image.save(tmp_path / "a.png", transparency=2)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), IDS)


def jpeg_in_tiff(path):
    Image.fromarray(IDS).save(path, format="TIFF", compression="jpeg")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: Image.fromarray(IDS).save(path, format="JPEG"), "compression of JPEG"),
        (lambda path: Image.fromarray(IDS).save(path, format="WEBP"), "compression of WEBP"),
        (jpeg_in_tiff, "compression of TIFF"),
        (lambda path: write_tiff(path, IDS, 4, 0), "whose 0 is white"),
        (lambda path: Image.fromarray(np.stack([IDS] * 3, -1)).save(path, format="PNG"), "grey stored as RGB"),
        (lambda path: Image.fromarray(np.stack([IDS, IDS, IDS + 9], -1)).save(path, format="PNG"), "4 colours"),
        (lambda path: Image.merge("LA", [Image.fromarray(IDS)] * 2).save(path, format="PNG"), "transparent in part"),
        (lambda path: Image.fromarray(IDS / np.float32(3)).save(path, format="TIFF"), "of mode F"),
        (lambda path: Image.fromarray(IDS.astype(np.int32) - 1).save(path, format="TIFF"), "holds -1 to 2"),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_what_holds_no_ids_is_refused_by_its_content(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        read_mask(tmp_path / name)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.full((4, 4), -1), "ids from 0 to 65535"),
        (np.full((4, 4), 70_000), "ids from 0 to 65535"),
        (np.ones((4, 4)), "must be integers"),
        (np.ones((2, 4, 4), int), r"of shape \(H, W\)"),
    ],
)
def test_ids_that_no_file_holds_are_not_written(tmp_path, ids, message):
    with pytest.raises(ValueError, match=message):
        write_mask(tmp_path / "a.png", ids)
    assert not list(tmp_path.iterdir())


def test_the_palette_of_davis_is_known():
    """Ids 0 to 8, and 255, of DAVIS and Pascal VOC."""
    known = [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
        (64, 0, 0),
    ]
    assert davis_palette()[:9].tolist() == [list(colour) for colour in known]
    assert davis_palette()[255].tolist() == [224, 224, 192] and len(np.unique(davis_palette(), axis=0)) == 256
    assert len(np.unique(own_palette(), axis=0)) == 256


def test_a_mask_is_turned_upright_as_pictures_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(IDS).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), np.rot90(IDS, -1))


@pytest.mark.parametrize(("largest", "mode"), [(255, "P"), (256, "I;16")])
def test_ids_up_to_255_are_written_with_their_colours(tmp_path, largest, mode):
    ids = np.array([[0, 1, largest]])
    write_mask(tmp_path / "a.png", ids)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode
        if mode == "P":
            np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0], own_palette()[[0, 1, 255]])
    assert read_mask(tmp_path / "a.png").tolist() == ids.tolist()


@pytest.mark.parametrize("colour", [2, 4, 6], ids=["RGB", "grey with alpha", "RGBA"])
def test_channels_of_16_bits_are_refused(tmp_path, colour):
    """A PNG file by its specification: Pillow would give the upper 8 bits of each value."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + bytes(4 * 2 * {2: 3, 4: 2, 6: 4}[colour])
    header = struct.pack(">IIBBBBB", 4, 3, 16, colour, 0, 0, 0)
    pieces = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(3 * row)), chunk(b"IEND", b"")
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(pieces))
    with pytest.raises(ValueError, match="has 16 bits in each of several channels, which Pillow cuts to 8"):
        read_mask(tmp_path / "mask.png")
