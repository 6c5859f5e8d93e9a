"""Rows and shards that are damaged, locally and streamed: told by file and row, and passed over where there are others."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf.data.dataset_card import write_dataset_card
from fgvc_hf.data.flying_things import LabelledCrops
from fgvc_hf.data.shards import (
    ShardedClips,
    ShardedPairs,
    StreamedClips,
    decode_image,
    encode_image,
    load_shards,
    shard_names,
    shard_textures,
    write_shards,
)


SETTINGS = {"size": 32, "gap": (1, 2)}


def picture(value, height=40):
    return encode_image(np.full((height, 56, 3), value, np.uint8), "PNG")


FRAMES = [picture(40 + t) for t in range(4)]
DAMAGE = {
    "none": (None, "has no len"),
    "no frame": ([None] * 4, "no image of a known format"),
    "text": ("abcd", "bytes-like object"),
    "cut off": ([frame[:60] for frame in FRAMES], "cannot be decoded"),
    "no image": ([b"x"] * 4, "no image of a known format"),
    "sizes": ([picture(t, 40 + t) for t in range(4)], "frames of a clip must have one size"),
}


class Rows(list):
    """Rows as a map-style dataset."""


def streamed(rows, folder, monkeypatch, **settings):
    """A stream of rows as `datasets` would give them from a shard."""
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    return StreamedClips([folder / "data-00000.parquet"], **SETTINGS, **settings)


@pytest.mark.parametrize("damage", [*DAMAGE, "column"])
def test_a_damaged_row_is_told_and_another_is_taken(damage, tmp_path, monkeypatch, caplog):
    frames, reason = DAMAGE.get(damage, (None, "it has no frames"))
    bad = {"name": "bad"} if damage == "column" else {"name": "bad", "frames": frames}
    rows = Rows([{"name": "good", "frames": FRAMES}, bad])
    stream = streamed(rows, tmp_path, monkeypatch, buffer=4)
    stream.numbers = range(12)
    for pairs, place in (
        ([ShardedClips(rows, **SETTINGS, source="SHARDS")[i] for i in range(12)], "SHARDS, row 1, bad"),
        ([pair for _, pair in stream], f"{tmp_path / 'data-00000.parquet'}, row 1, bad"),
    ):
        assert len(pairs) == 12 and all(40 <= pair.float().mean() <= 43 for pair in pairs)
        assert f"left out: {place}: is damaged (" in caplog.text and reason in caplog.text
    stream = streamed(Rows([bad]), tmp_path, monkeypatch, buffer=4)
    for read in (lambda: ShardedClips(Rows([bad]), **SETTINGS, source="SHARDS")[0], lambda: next(iter(stream))):
        with pytest.raises(OSError, match=r"no row can be used .* row 0, bad: is damaged \(.*\)\.$"):
            read()


def test_a_stream_with_a_damaged_row_goes_on_where_it_is_asked_to(tmp_path, monkeypatch):
    rows = [{"name": str(i), "frames": FRAMES if i % 3 else [b"x"] * 4} for i in range(8)]
    whole, later = (streamed(rows, tmp_path, monkeypatch, buffer=5) for _ in range(2))
    whole.numbers, later.numbers = range(20), range(9, 20)
    expected, found = dict(iter(whole)), dict(iter(later))
    assert len(expected) == 20 and all(torch.equal(found[number], expected[number]) for number in range(9, 20))


def test_rows_that_are_too_short_are_passed_over(tmp_path, monkeypatch, caplog):
    """A clip of many frames ends in a row of the frames that are left, which may be fewer than there are offsets."""
    rows = Rows([{"name": "long", "frames": FRAMES}, {"name": "rest", "frames": [picture(200), picture(210)]}])
    clips = ShardedClips(rows, **SETTINGS, offsets=(0, 1, 2))
    assert all(clips[number].float().mean() < 100 for number in range(20))
    stream = streamed(rows, tmp_path, monkeypatch, buffer=4, offsets=(0, 1, 2))
    stream.numbers = range(20)
    assert all(clip.shape[0] == 3 and clip.float().mean() < 100 for _, clip in stream) and not caplog.text
    with pytest.raises(OSError, match="SHARDS, row 0: has 2 frames, but 3 are needed"):
        ShardedClips(Rows(rows[1:]), **SETTINGS, offsets=(0, 1, 2), source="SHARDS")[0]


@pytest.fixture
def shards(tmp_path):
    rows = ({"name": f"r{i}", "frames": [bytes([i]) * 3000, *FRAMES[:1]]} for i in range(6))
    write_shards(rows, tmp_path / "shards", rows_per_shard=2)
    return tmp_path / "shards"


@pytest.mark.parametrize("place", [slice(4, 600), slice(-200, None)])
def test_a_shard_that_is_damaged_at_the_same_size_is_named(shards, place, caplog):
    path = shards / "data-00001.parquet"
    data = bytearray(path.read_bytes())
    data[place] = bytes(len(data[place]))
    path.write_bytes(data)
    with pytest.raises(OSError, match=rf"^{path}: is no Parquet file, or is damaged"):
        load_shards(shards)
    assert shard_textures(shards, 6, 16, 24).shape == (4, 3, 16, 24)
    assert f"{path}: cannot be read and is left out" in caplog.text
    (shards / "shards.json").unlink()
    (shards / ".unfinished.json").write_text('{"rows_per_shard": 2}')
    rows = ({"name": f"r{i}", "frames": [bytes([i]) * 3000, *FRAMES[:1]]} for i in range(6))
    with pytest.raises(OSError, match=rf"^{path}: is no Parquet file, or is damaged"):
        write_shards(rows, shards, rows_per_shard=2, resume=True)
    if place.start < 0:
        with pytest.raises(OSError, match=rf"^{path}: is no Parquet file, or is damaged"):
            write_dataset_card(shards, "a test")


def test_rows_of_a_folder_are_told_by_its_manifest(shards, caplog):
    with pytest.raises(OSError, match=rf"{shards}/data-0000\d.parquet, row [01], r\d: is damaged"):
        ShardedClips(load_shards(shards), **SETTINGS, source=shards)[0]
    assert f"{shards / 'data-00002.parquet'}, row 1, r5: is damaged" in caplog.text


@pytest.mark.parametrize("read", [load_shards, shard_names, lambda source: shard_textures(source, 1, 8, 8)])
@pytest.mark.parametrize("source", ["{}/absent", "./absent", "a/b/c", "{}/file.parquet"])
def test_what_can_only_be_a_folder_is_not_looked_for_on_the_hub(read, source, tmp_path):
    (tmp_path / "file.parquet").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="holds no shards, there is no such folder"):
        read(source.format(tmp_path))


def test_textures_of_rows_that_are_damaged_in_part(tmp_path, caplog):
    values = [[picture(10)], [], [b"x"], [picture(30)], None]
    write_shards([{"name": f"r{i}", "frames": frames} for i, frames in enumerate(values)], tmp_path / "some")
    assert shard_textures(tmp_path / "some", 5, 8, 8)[:, 0, 0, 0].tolist() == [10, 30]
    for number in (1, 2, 4):
        assert f"some/data-00000.parquet, row {number}, r{number}: is damaged" in caplog.text
    with pytest.raises(OSError, match="none: none of the first 2 rows has a frame that can be read"):
        write_shards([{"name": "r", "frames": []}] * 2, tmp_path / "none")
        shard_textures(tmp_path / "none", 2, 8, 8)


def stored(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_frames_of_every_kind_become_rgb_by_the_rule_of_frames():
    wide = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert decode_image(stored(wide))[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]
    grey = Image.fromarray(np.array([[0, 7, 255]], np.uint8))
    for image in (grey, grey.convert("LA"), grey.convert("P"), grey.convert("RGBA")):
        assert decode_image(stored(image))[0].tolist() == [[v] * 3 for v in (0, 7, 255)]


def labelled(**changed):
    file = io.BytesIO()
    np.savez_compressed(file, flow=np.zeros((2, 40, 56, 2), np.float16))
    return {"name": "pair", "frames": FRAMES[:2], "flow": file.getvalue()} | changed


def array(values, save=np.savez_compressed):
    file = io.BytesIO()
    save(file, **({"flow": values} if save is not np.save else {"arr": values}))
    return file.getvalue()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (labelled(flow=None), "is damaged"),
        (labelled(flow="text"), "is damaged"),
        (labelled(flow=labelled()["flow"][:60] + b"\xff" * 9 + labelled()["flow"][69:]), "is damaged"),
        (labelled(flow=array(np.zeros((2, 40, 56), np.float16))), "flow must be"),
        (labelled(flow=array(np.zeros((2, 40, 56, 3), np.float16))), "the flow is 40x56x3, but its frames 40x56"),
        (labelled(flow=array(np.zeros((2, 40, 56, 2), np.float16), np.save)), "is damaged"),
        (labelled(frames=None), "is damaged"),
        (labelled(frames=FRAMES[:1]), "must have two frames of one size"),
        (labelled(frames=[picture(1), picture(1, 41)]), "must have two frames of one size"),
        ({"name": "pair", "flow": labelled()["flow"]}, "it has no frames"),
    ],
)
def test_a_labelled_pair_that_is_damaged_is_told_and_another_is_taken(row, message, caplog):
    pairs = ShardedPairs(Rows([labelled(), row]), "SHARDS")
    with pytest.raises(OSError, match=f"^SHARDS, row 1, pair: .*{message}"):
        pairs[1]
    crops = LabelledCrops(pairs, size=32)
    assert all(crops[number][0].shape == (2, 3, 32, 32) for number in range(8)) and "SHARDS, row 1" in caplog.text
