import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fgvc_hf.evaluation.array_pickle import read_pickle
from fgvc_hf.evaluation.tapvid import load_tapvid
from fgvc_hf.evaluation.tapvid_pickle import load_tapvid_pickle


H, W, T = 20, 30, 4


def video(value, jpeg=False):
    frames = np.full((T, H, W, 3), value, np.uint8)
    points = np.full((2, T, 2), [0.5, 0.25])
    if jpeg:
        stored = []
        for frame in frames:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "JPEG", quality=95)
            stored.append(buffer.getvalue())
        frames = stored
    return {"video": frames, "points": points, "occluded": np.zeros((2, T), bool)}


def write(path, content, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_davis_is_a_dict_of_videos(tmp_path, protocol):
    write(tmp_path / "tapvid_davis" / "tapvid_davis.pkl", {"goat": video(7), "cows": video(9)}, protocol)
    first, second = load_tapvid(tmp_path, "davis")
    assert (first.name, second.name, first.size) == ("goat", "cows", (H, W))
    assert second.frames[0, 0, 0, 0] == 9
    np.testing.assert_allclose(first.points[0, 0], [15, 5])  # pixels, from shares of width and height
    assert not first.occluded.any()


def test_kinetics_is_lists_of_videos_in_several_files(tmp_path):
    for index in range(2):
        content = [video(10 * index + i, jpeg=True) for i in range(2)]
        write(tmp_path / "tapvid_kinetics" / f"{index:04d}_of_0002.pkl", content)
    videos = list(load_tapvid(tmp_path, "kinetics"))
    assert [v.name for v in videos] == [f"{i:04d}_of_0002-{j:04d}" for i in range(2) for j in range(2)]
    assert abs(int(videos[3].frames[0, 0, 0, 0]) - 11) <= 1 and videos[3].frames.shape == (T, H, W, 3)


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


def test_a_pickle_that_constructs_anything_else_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "bad.pkl", {"goat": video(1), "other": Exploit()})
    with pytest.raises(OSError, match=r"bad.pkl: .* it tries to construct posix.mkdir, which is not allowed"):
        read_pickle(path)
    assert not (tmp_path / "exploited").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([video(1)])[:-200]])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "damaged.pkl"
    path.write_bytes(content)
    with pytest.raises(OSError, match="damaged.pkl: cannot be read as a pickle of arrays"):
        read_pickle(path)


def test_other_content_is_named(tmp_path):
    with pytest.raises(OSError, match="the video goat lacks video, points or occluded"):
        list(load_tapvid_pickle(write(tmp_path / "a.pkl", {"goat": {"video": 3}})))
    with pytest.raises(OSError, match="holds no videos"):
        list(load_tapvid_pickle(write(tmp_path / "b.pkl", {})))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_kind_are_read_as_they_were(tmp_path, protocol):
    content = {
        "order": [np.arange(12, dtype=d).reshape(3, 4) for d in ("<f4", ">f8", "<i2", ">u4", "u1", "f2", "c8")],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "parts": np.arange(24).reshape(4, 6)[::2, 1::2],
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(3),
        "bool": np.array([True, False]),
        "text": np.array(["ab", "c"]),
        "bytes": np.array([b"ab", b"c"]),
        "numbers": [np.float64(0.1), np.int8(-3), np.bool_(True), np.str_("x"), 1 << 80, 0.1, True, None, b"x", "é"],
        5: (1, [2, {"a": ()}]),
    }
    found = read_pickle(write(tmp_path / "a.pkl", content, protocol))
    assert found.keys() == content.keys() and found[5] == content[5]
    for name in ("fortran", "parts", "empty", "scalar", "bool", "text", "bytes"):
        np.testing.assert_array_equal(found[name], content[name], strict=True)
    for one, other in zip(found["order"], content["order"], strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
        assert one.dtype == other.dtype and one.flags.writeable
    assert found["numbers"] == content["numbers"]
    assert [type(one) for one in found["numbers"]] == [type(one) for one in content["numbers"]]


class Call:
    """Pickled as a call of something that arrays are pickled by."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self):
        return self.call


SCALAR, RECONSTRUCT = np.float64(1).__reduce__()[0], np.zeros(1).__reduce__()[0]
POINTER = b"\x41" * 8
HOSTILE = {
    "an object scalar": lambda: Call(SCALAR, np.dtype("O"), POINTER),
    "an object array": lambda: np.array([{}, []], dtype=object),
    "bytes as objects": lambda: Call(
        RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), np.dtype("O"), False, POINTER)
    ),
    "fields": lambda: np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
    "a date": lambda: np.array(["2020-01-01"], dtype="M8[D]"),
    "raw memory": lambda: np.zeros(2, dtype="V8"),
    "a part of arrays": lambda: Call(np.dtype, "(2,2)f4", False, True),
    "fields in a name": lambda: Call(np.dtype, "O,f4", False, True),
    "a shape that does not fit": lambda: Call(
        RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (9,), np.dtype("f4"), False, b"1234")
    ),
    "a shape below 0": lambda: Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (-1,), np.dtype("f4"), False, b"")),
    "a scalar that is too short": lambda: Call(SCALAR, np.dtype("f8"), b"1"),
    "another subclass": lambda: np.ma.masked_array([1], [True]),
    "a class": lambda: np.ndarray,
    "a function": lambda: SCALAR,
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_could_hold_pointers_or_code_is_refused(tmp_path, kind, protocol):
    path = write(tmp_path / "bad.pkl", {"goat": HOSTILE[kind]()}, protocol)
    with pytest.raises(OSError, match="bad.pkl: cannot be read as a pickle of arrays: .*[.]$"):
        read_pickle(path)


@pytest.mark.parametrize(
    "data",
    [
        b"cnumpy\nndarray\n(dVx\nVy\nsb.",  # changes a function
        b"cnumpy\ndtype\n)\x81.",  # makes an object without its function
        b"\x80\x04]\x94h\x00a.",  # a list in itself
        b"\x80\x04r\xff\xff\xff\x7f.",  # a memo of two thousand million entries
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # as many bytes as there are addresses
        b"\x80\x04" + b"(" * 100_000 + b"t" * 100_000 + b".",
        b"\x80\x04P1\n.",
        b"\x80\x04\x82\x01.",
    ],
)
def test_hostile_instructions_are_refused(tmp_path, data):
    (tmp_path / "bad.pkl").write_bytes(data)
    with pytest.raises(OSError, match="cannot be read as a pickle of arrays"):
        read_pickle(tmp_path / "bad.pkl")


FUZZ = r"""
import faulthandler, pickle, sys
import numpy as np
from fgvc_hf.evaluation.tapvid_pickle import load_tapvid_pickle
faulthandler.enable()
video = {"video": np.full((4, 20, 30, 3), 7, np.uint8), "points": np.full((2, 4, 2), 0.5), "occluded": np.zeros((2, 4), bool)}
draw, refused = np.random.default_rng(0), 0
for number in range(300):
    data = bytearray(pickle.dumps({"goat": video, "n": np.float64(1)} if number % 2 else [video, video], protocol=(2, 4, 5)[number % 3]))
    tight = [i for i in range(len(data)) if data[i] not in (0, 7)]  # instructions more than pixels
    for _ in range(int(draw.integers(1, 6))):
        at = int(draw.choice(tight)) if draw.random() < 0.8 else int(draw.integers(len(data)))
        at, kind = min(at, len(data) - 1), draw.integers(4)
        if kind == 0:
            data[at] = int(draw.integers(256))
        elif kind == 1:
            data[at] = int(draw.choice(list(b"crR.be0q(t\x81\x92\x93\x96BXOKJ")))
        elif kind == 2:
            del data[at : at + int(draw.integers(1, 9))]
        else:
            data[at:at] = data[max(0, at - 30) : at]
    open(sys.argv[1], "wb").write(data)
    try:
        for one in load_tapvid_pickle(sys.argv[1]):
            assert one.frames.dtype == np.uint8 and one.points.shape == (*one.occluded.shape, 2)
    except OSError as error:
        assert str(error).startswith(sys.argv[1]), error
        refused += 1
print(refused)
"""


def test_damage_never_ends_the_process(tmp_path):
    """300 damaged files: an OSError, or videos of the right kind."""
    command = [sys.executable, "-c", FUZZ, str(tmp_path / "a.pkl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 100 < int(done.stdout) <= 300


@pytest.mark.parametrize("name", ["../up", "/tmp/x", "a/b", "..", ""])
def test_names_are_no_paths(tmp_path, name):
    with pytest.raises(OSError, match="is not a name"):
        list(load_tapvid_pickle(write(tmp_path / "a.pkl", {name: video(1)})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": np.zeros((4, 8, 8), np.uint8)}, "neither frames"),
        ({"video": np.zeros((4, 8, 8, 3), np.float32)}, "neither frames"),
        ({"video": [b"no image"] * 4}, "the first frame of the video goat cannot be read"),
        ({"video": []}, "neither frames"),
        ({"points": np.zeros((2, 3, 2))}, "has points of shape"),
        ({"occluded": np.zeros((3, 4), bool)}, "has points of shape"),
        ({"points": np.full((2, 4, 2), "a")}, "has points of shape"),
        ({"points": [[1], [1, 2]]}, "has points or occluded that are no arrays"),
        ({"points": np.float64(1)}, "has points of shape"),
        ({"occluded": np.full((2, 4), 2)}, "occluded must be 0 or 1"),
        ({"occluded": np.full((2, 4), np.nan)}, "occluded must be 0 or 1"),
    ],
)
def test_videos_of_another_kind_are_named(tmp_path, change, message):
    with pytest.raises(OSError, match=message):
        list(load_tapvid_pickle(write(tmp_path / "a.pkl", {"goat": video(1) | change})))


def jpeg(height, width):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (90, 90, 90)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [(b"no image", "cannot identify"), (jpeg(8, 8)[:-90], "Truncated"), (jpeg(6, 8), "it is 6x8")],
)
def test_a_later_frame_that_is_damaged_is_named(tmp_path, damaged, reason):
    content = {"goat": video(1) | {"video": [jpeg(8, 8), jpeg(8, 8), damaged, jpeg(8, 8)]}}
    (found,) = load_tapvid_pickle(write(tmp_path / "a.pkl", content))
    with pytest.raises(OSError, match=f"goat: the frame 2 cannot be read .*{reason}"):
        _ = found.frames
