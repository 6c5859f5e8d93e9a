"""Which frames of a video are processed, and in which order."""

import pytest

from fgvc_hf.tracking.video_order import ordered_frames


class Video:
    """Frames that are their numbers; of a length that may not be known."""

    def __init__(self, length, known=True):
        self.length, self.num_frames = length, length if known else None

    def frames(self, start, stop, reverse):
        numbers = range(start, self.length if stop is None else min(stop, self.length))
        return iter(numbers[::-1] if reverse else numbers)


def numbers_of(start=None, limit=None, reverse=False, prompted=(4, 2, 6, 5), known=True):
    order = ordered_frames(Video(10, known), prompted, start, limit, reverse)
    pairs = list(order)
    assert all(number == frame for number, frame in pairs)
    if known:
        assert len(order) == len(pairs)
    elif limit is None and not reverse:
        with pytest.raises(TypeError, match="length of this source is not known"):
            len(order)
    return [number for number, _ in pairs]


@pytest.mark.parametrize("known", [True, False])
def test_forward_from_the_first_prompt_or_the_start(known):
    assert numbers_of(known=known) == list(range(2, 10))
    assert numbers_of(7, known=known) == [7, 8, 9] and numbers_of(9, known=known) == [9]
    assert numbers_of(limit=0, known=known) == [2] and numbers_of(limit=3, known=known) == [2, 3, 4, 5]
    assert numbers_of(7, 2, known=known) == numbers_of(7, 99, known=known) == [7, 8, 9]
    assert numbers_of(0, prompted=(), known=known) == list(range(10))


def test_backward_from_the_last_prompt_or_the_start():
    assert numbers_of(reverse=True) == [6, 5, 4, 3, 2, 1, 0]
    assert numbers_of(9, reverse=True) == list(range(10))[::-1] and numbers_of(0, reverse=True) == [0]
    assert numbers_of(limit=0, reverse=True) == [6] and numbers_of(limit=2, reverse=True) == [6, 5, 4]
    assert numbers_of(3, 3, True) == numbers_of(3, 99, True) == [3, 2, 1, 0]


@pytest.mark.parametrize("start", [-1, 10, 11])
def test_a_start_outside_the_video_is_refused(start):
    for reverse in (False, True):
        with pytest.raises(ValueError, match=f"must be a frame of the video, which has 10, got {start}"):
            numbers_of(start, reverse=reverse)
    if start > 0:
        assert numbers_of(start, known=False) == []


def test_what_says_too_little_or_too_few_is_refused():
    with pytest.raises(ValueError, match="max_frame_num_to_track must be 0 or more, got -1"):
        numbers_of(limit=-1)
    with pytest.raises(ValueError, match="has no targets; add them, or give start_frame_idx"):
        numbers_of(prompted=())
    with pytest.raises(ValueError, match="has no video"):
        ordered_frames(None, [1], None, None, False)
