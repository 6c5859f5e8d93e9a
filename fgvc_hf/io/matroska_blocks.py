"""Blocks of Matroska files: where one makes no sense, demuxers leave out the rest of its cluster, and tell their log alone."""


def block_is_whole(block: bytes | memoryview, tracks: set[int]) -> bool:
    """
    Whether a block belongs to a track of the file and its frames fit into it.

    Args:
        block (`bytes` or `memoryview`): The content of a `SimpleBlock` or a `Block`; only its head is read.
        tracks (`set[int]`): Numbers of the tracks.
    """
    try:
        track, at = number_at(block, 0)
        lacing, at = block[at + 2] >> 1 & 3, at + 3
        return track in tracks and (not lacing or LACINGS[lacing](block, at + 1, block[at]))
    except IndexError:
        return False


def number_at(block: bytes | memoryview, at: int) -> tuple[int, int]:
    """An integer whose first bits tell its length, and where it ends; an `IndexError` if the block ends before."""
    length = 9 - block[at].bit_length()
    if length > 8 or at + length > len(block):
        raise IndexError
    return int.from_bytes(block[at : at + length]) & ((1 << 7 * length) - 1), at + length


def _xiph(block: bytes | memoryview, at: int, others: int) -> bool:
    """Sizes of all frames but the last one, each a sum of bytes up to one below 255."""
    total = 0
    while others:
        total += block[at]
        others -= block[at] < 255
        at += 1
    return at + total <= len(block)


def _equal(block: bytes | memoryview, at: int, others: int) -> bool:
    return (len(block) - at) % (others + 1) == 0


def _ebml(block: bytes | memoryview, at: int, others: int) -> bool:
    """The size of the first frame, and how the size of each but the last differs from the one before."""
    if not others:
        return True
    size, at = number_at(block, at)
    total = size
    for _ in range(others - 1):
        start = at
        change, at = number_at(block, at)
        size += change - (1 << 7 * (at - start) - 1) + 1
        total += size
        if size < 0:
            return False
    return at + total <= len(block)


LACINGS = {1: _xiph, 2: _equal, 3: _ebml}


__all__ = ["block_is_whole", "number_at"]
