"""The packets of an ASF file (WMV): whether the pieces of frames in them are where the packets say, for demuxers skip those that are not."""

import struct


FILE, STREAM, DATA = (
    bytes.fromhex(text)
    for text in (
        "a1dcab8c47a9cf118ee400c00c205365",  # File Properties Object
        "9107dcb7b7a9cf118ee600c00c205365",  # Stream Properties Object
        "3626b2758e66cf11a6d900aa0062ce6c",  # Data Object
    )
)
HEAD = 50  # bytes of a data object before its packets
WIDTHS = (0, 1, 2, 4)  # bytes of a field by the two bits that say so
Rest = dict[int, tuple[int, int]]  # stream -> number of its last frame, and bytes of it that have not come yet


def packets_are_whole(data) -> bool:
    """
    Whether every packet can be taken apart, by section 5.2 of the ASF specification.

    Args:
        data: The bytes of a file that is not cut off.
    """
    file, start, streams, at = data.find(FILE), data.find(DATA), set(), data.find(STREAM)
    if file < 0 or start < 0:
        return False
    while 0 <= at < start:
        streams.add(data[at + 72] & 0x7F)
        at = data.find(STREAM, at + 16)
    least, size = struct.unpack_from("<II", data, file + 92)  # all packets have the same
    # By the length of the object, for the number of packets that it states may be damaged
    (held,) = struct.unpack_from("<Q", data, start + 16)
    end = start + held if HEAD <= held <= len(data) - start else len(data)
    rest: Rest = {}
    try:
        return (
            0 < least == size
            and all(
                _is_whole(data[at : at + size], size, streams, rest)
                for at in range(start + HEAD, end - size + 1, size)
            )
            and not any(missing for _, missing in rest.values())
        )
    except (struct.error, IndexError):
        return False


class _Fields:
    """Numbers one after the other, of widths that flags say."""

    def __init__(self, packet: bytes):
        self.packet, self.at = packet, 0

    def take(self, width: int) -> int:
        self.at += width
        if self.at > len(self.packet):
            raise IndexError
        return int.from_bytes(self.packet[self.at - width : self.at], "little")


def _is_whole(packet: bytes, size: int, streams: set[int], rest: Rest) -> bool:
    """Whether a packet can be taken apart, and goes on where the one before has ended; `rest` tells that of each stream."""
    fields = _Fields(packet)
    if packet[0] & 0x80:  # error correction data
        fields.at = 1 + (packet[0] & 0x0F)
        if any(packet[1 : fields.at]):
            return False  # demuxers look for a packet elsewhere
    lengths, properties = fields.take(1), fields.take(1)
    stated = fields.take(WIDTHS[lengths >> 5 & 3])
    fields.take(WIDTHS[lengths >> 1 & 3])
    padding = fields.take(WIDTHS[lengths >> 3 & 3])
    fields.take(6)  # time and duration
    end = (stated or size) - padding
    if not fields.at <= end <= size:
        return False
    several = fields.take(1) if lengths & 1 else 0
    if lengths & 1 and not several & 0x3F:
        return False  # no piece at all
    for _ in range(several & 0x3F if lengths & 1 else 1):
        stream = fields.take(1) & 0x7F
        number = fields.take(WIDTHS[properties >> 4 & 3])
        offset = fields.take(WIDTHS[properties >> 2 & 3])
        replicated = fields.take(WIDTHS[properties & 3])
        whole = struct.unpack_from("<I", packet, fields.at)[0] if replicated >= 8 else None  # bytes of the frame
        fields.take(replicated)
        length = fields.take(WIDTHS[several >> 6]) if lengths & 1 else end - fields.at
        fields.at += length
        if stream not in streams or fields.at > end or (whole is not None and not offset < offset + length <= whole):
            return False
        if whole is None:  # several frames in a piece, or of an unknown size
            rest.pop(stream, None)
            continue
        if not _follows(rest.get(stream), number, 256 ** WIDTHS[properties >> 4 & 3], whole, offset):
            return False
        rest[stream] = number, whole - offset - length
    return True


def _follows(before: tuple[int, int] | None, number: int, numbers: int, whole: int, offset: int) -> bool:
    """Whether a piece goes on with the frame before it in its stream, or begins the next one if that is complete."""
    if before is None:
        return True
    last, missing = before
    if missing:
        return number == last and whole - offset == missing
    return number == (last + 1) % numbers and not offset


__all__ = ["packets_are_whole"]
