"""Which stream of a container is read, and how large its frames may be."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from av.stream import Disposition

from fgvc_hf.io.containers import best_video


def stream(width=64, height=48, disposition=Disposition(0), known=True):
    context = SimpleNamespace(width=width, height=height, options={}) if known else None
    return SimpleNamespace(codec_context=context, disposition=disposition)


def best(*streams):
    return best_video(SimpleNamespace(streams=SimpleNamespace(video=list(streams))), Path("a.mp4"))


def test_the_stream_with_the_most_pixels_is_read_and_one_marked_as_default_before_it():
    small, large, none = stream(64, 48), stream(96, 64), stream(200, 200, known=False)
    default = stream(32, 32, Disposition.default)
    cover = stream(500, 500, Disposition.attached_pic)
    assert best(small, large, none, cover) is large and best(large, default, small) is default
    assert best(stream(2236, 2236), default) is default  # it counts as 5 million pixels more
    larger = stream(2237, 2237)
    assert best(larger, default) is larger


def test_frames_of_at_most_8192_by_8192_pixels_are_read():
    found = best(stream(8192, 8192))
    assert found.codec_context.options == {"max_pixels": "67108864"}
    with pytest.raises(OSError, match="a.mp4: has frames of 8193x8192, which are larger than 67108864 pixels"):
        best(stream(8192, 8193))


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ([], r"a.mp4: has no video stream\.$"),
        ([stream(disposition=Disposition.attached_pic)], "has no video stream, only a cover picture"),
        ([stream(disposition=Disposition.timed_thumbnails)], "has no video stream, only a cover picture"),
        ([stream(known=False)], "has a video stream of a codec that is not known"),
    ],
)
def test_what_is_no_video(streams, message):
    with pytest.raises(OSError, match=message):
        best(*streams)
