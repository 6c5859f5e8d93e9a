"""Pictures of every kind: 8 bits by a stated rule or one sentence."""

import warnings

import numpy as np
import pytest
from PIL import Image

from fgvc_hf import open_video
from fgvc_hf.cli.main import main
from fgvc_hf.cli.paint import read_texture
from fgvc_hf.io.image_files import open_picture, read_image
from fgvc_hf.io.masks import read_mask


GREY = (np.arange(48 * 64).reshape(48, 64) % 251).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def three(grey):
    return np.stack([grey] * 3, axis=-1)


PICTURES = {
    "wide.png": (Image.fromarray(GREY.astype(np.uint16) * 257), three(GREY), 0),
    "wide.tif": (Image.fromarray(GREY.astype(np.uint16) * 257 + 100), three(GREY), 0),
    "float.tif": (Image.fromarray((GREY / 255).astype("f4")), three(GREY), 0),
    "bits.png": (Image.fromarray(GREY > 99), three(np.where(GREY > 99, 255, 0)), 0),
    "palette.png": (
        Image.fromarray(RGB).quantize(16),
        np.asarray(Image.fromarray(RGB).quantize(16).convert("RGB")),
        0,
    ),
    "alpha.png": (Image.fromarray(np.dstack([RGB, GREY])), RGB, 0),
    "la.png": (Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY)]), three(GREY), 0),
    "cmyk.tif": (Image.fromarray(RGB).convert("CMYK"), RGB, 1),
    "rgb.webp": (Image.fromarray(RGB), RGB, 0),
    "rgb.BMP": (Image.fromarray(RGB), RGB, 0),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_keep_their_levels(tmp_path, name):
    image, expected, tolerance = PICTURES[name]
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    frame = read_image(tmp_path / name)
    assert frame.dtype == np.uint8 and frame.shape == (48, 64, 3)
    assert np.abs(frame.astype(int) - expected).max() <= tolerance
    for source in (tmp_path, tmp_path / name):  # in a folder, and as a video of one frame
        np.testing.assert_array_equal(next(open_video(source).frames()), frame)


def test_orientation_is_applied_and_profiles_are_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif, icc_profile=b"no profile")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(RGB, -1))


def test_a_link_that_leads_nowhere_is_a_picture_that_is_missing(tmp_path):
    for name in "abd":
        Image.fromarray(RGB).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "e.png").mkdir()
    video = open_video(tmp_path)
    assert video.num_frames == 4
    with pytest.raises(FileNotFoundError, match=r"c\.png: cannot be read as an image \(No such file\)"):
        list(video.frames())


def test_two_pictures_of_one_frame_are_refused(tmp_path):
    """Masks beside their frames, or frames in two formats, would be frames of their own between the others."""
    for t in range(3):
        Image.fromarray(RGB).save(tmp_path / f"{t}.jpg")
    (tmp_path / "1.txt").write_text("a note")
    (tmp_path / ".1.png").write_bytes(b"hidden")
    assert open_video(tmp_path).num_frames == 3
    Image.fromarray(GREY).save(tmp_path / "1.png")
    with pytest.raises(OSError, match=r"holds 1\.jpg and 1\.png; give a folder that holds one picture of each frame"):
        open_video(tmp_path)


@pytest.mark.parametrize("read", [read_image, read_mask, read_texture])
def test_exif_that_is_damaged_is_damage_of_the_picture(tmp_path, read):
    Image.fromarray(np.dstack([RGB, GREY])).save(tmp_path / "a.png", exif=b"no TIFF header")
    with pytest.raises(OSError, match=r"a\.png: cannot be read as an image \(not a TIFF file"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GREY.astype("f4"), r"must lie in \[0, 1\]"),
        (np.full((4, 4), np.nan, "f4"), r"must lie in \[0, 1\]"),
        (GREY.astype(np.int32), "whose white is not known"),
    ],
)
def test_values_without_a_scale_are_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "a.tif")
    for read in (lambda: read_image(tmp_path / "a.tif"), lambda: open_video(tmp_path)):
        with pytest.raises(OSError, match=f"a.tif.*{message}"):
            read()


def test_the_pages_of_a_stack_are_frames_and_no_picture(tmp_path):
    pages = [Image.fromarray(GREY.astype(np.uint16) * 257 // (t + 1)) for t in range(3)]
    path = tmp_path / "stack.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(OSError, match="holds 3 pages, a picture has one"):
        read_image(path)
    video = open_video(path)
    assert video.num_frames == 3
    forward = list(video.frames())
    for t, frame in enumerate(forward):
        assert np.abs(frame[..., 0].astype(int) - GREY / (t + 1)).max() <= 1
    np.testing.assert_array_equal(list(video.frames(1, 3, reverse=True)), forward[:0:-1])
    for image in pages:
        image.save(tmp_path / "one.tif")
    with pytest.raises(OSError, match="holds 3 pages"):
        list(open_video(tmp_path).frames())


def test_folders_are_in_natural_order_without_what_is_hidden(tmp_path):
    for number, name in enumerate(["Img1.png", "img2.PNG", "IMG3.png", "img10.png"]):
        Image.fromarray(np.full((8, 9, 3), number, np.uint8)).save(tmp_path / name)
    (tmp_path / "._img1.png").write_bytes(b"resource fork")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub").mkdir()
    Image.fromarray(RGB).save(tmp_path / "sub" / "other.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert [int(frame[0, 0, 0]) for frame in open_video(tmp_path).frames()] == [0, 1, 2, 3]


def test_folders_that_are_no_video_are_one_sentence(tmp_path):
    (tmp_path / "._0.jpg").write_bytes(b"resource fork")
    with pytest.raises(OSError, match="holds no images .*; hidden files and sub-folders are not looked at"):
        open_video(tmp_path)
    Image.fromarray(RGB).save(tmp_path / "0.png")
    Image.fromarray(RGB[:20]).save(tmp_path / "1.png")
    with pytest.raises(OSError, match="1.png: is 20x64, but those before are 48x64"):
        list(open_video(tmp_path).frames())


@pytest.mark.parametrize(
    "pixels", [(9500, 9500), (14000, 14000)]
)  # from where Pillow warns, and from where it refuses
def test_bombs_are_one_sentence(tmp_path, monkeypatch, capsys, pixels):
    monkeypatch.chdir(tmp_path)
    Image.new("1", pixels).save("bomb.png")
    Image.fromarray(RGB).save("fine.png")
    for read in (read_image, read_mask, open_video):
        with pytest.raises(OSError, match="bomb.png: cannot be read as an image, it has more than 89478485 pixels"):
            read("bomb.png")
    for command in (
        ["flow", "bomb.png", "fine.png", "--output", "o.flo"],
        ["paint", "fine.png", "--texture", "bomb.png", "--output", "o.mp4"],
        ["propagate", "fine.png", "--mask", "bomb.png", "--output", "o"],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "the limit" in error


def test_later_pages_have_the_same_limit(tmp_path, monkeypatch):
    small, large = Image.new("L", (20, 20)), Image.new("L", (40, 40))
    small.save(tmp_path / "a.tif", save_all=True, append_images=[large])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(tmp_path / "a.tif", 0).shape == (20, 20, 3)
    with pytest.raises(OSError, match="it has more than 1000 pixels, the limit"):
        read_image(tmp_path / "a.tif", 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as programs do that trust their files
    assert read_image(tmp_path / "a.tif", 1).shape == (40, 40, 3)


def test_filters_of_warnings_are_the_programs_own(tmp_path):
    """They hold for all threads: one that reads a picture must not change what another is warned of."""
    Image.fromarray(RGB).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with open_picture(tmp_path / "a.png"):
        assert warnings.filters == before


@pytest.mark.filterwarnings("error")
def test_a_palette_with_a_transparency_for_each_colour(tmp_path):
    picture = Image.fromarray(RGB).quantize(4)
    expected = np.asarray(picture.convert("RGB"))
    picture.save(tmp_path / "a.png", transparency=bytes([0, 99, 200, 255]))
    with Image.open(tmp_path / "a.png") as image:
        assert isinstance(image.info["transparency"], bytes)
    assert (read_image(tmp_path / "a.png") == expected).all()


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n cut off", b"II*\0\x08\0\0\0\xff\xff"])
def test_damaged_files_are_one_sentence(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(OSError, match="a.png: cannot be read as an image"):
            read(path)


def test_a_folder_is_no_missing_file(tmp_path):
    for path, problem in ((tmp_path, "it is a folder"), (tmp_path / "a.png", "No such file")):
        with pytest.raises(FileNotFoundError, match=rf"cannot be read as an image \({problem}\)"):
            read_image(path)


@pytest.mark.parametrize("url", ["https://example.org/a.png", "s3://bucket/a.png", "file:///a.png"])
def test_a_url_is_named_as_it_was_given(url):
    for read in (read_image, read_mask, open_video):
        with pytest.raises(ValueError, match=f"^{url}: is a URL"):
            read(url)


def test_a_preview_in_a_jpeg_is_no_page(tmp_path):
    """Cameras store a smaller picture behind the first (MPO)."""
    large, small = (Image.fromarray(np.full((*size, 3), 90, np.uint8)) for size in ((20, 30), (4, 6)))
    large.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[small])
    assert read_image(tmp_path / "a.jpg").shape == (20, 30, 3)
    video = open_video(tmp_path / "a.jpg")
    assert video.num_frames == 1 and next(video.frames()).shape == (20, 30, 3)
