"""Media files to be damaged, and where what is damaged begins in them."""

from media_files import CONTAINERS, write_media


def transport_packet(stream: int, flags: int, before: int, length: int) -> bytes:
    """A packet of a transport stream: `before` bytes of a time, the mark, flags beside the number of the stream, and what it holds."""
    head = bytes([0x47, flags | stream >> 8, stream & 0xFF, 0x10])
    return bytes(before) + head + bytes(length - before - len(head))


def written(folder, name, frames):
    write_media(folder / name, frames, *CONTAINERS[name])
    return folder / name, (folder / name).read_bytes()


def frames_of_wmv(content: bytes) -> list[int]:
    """Where each frame of a file of one stream begins: number, offset of four bytes, length of what follows, bytes of the frame."""
    start = content.index(bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")) + 50
    return [
        at
        for at in range(start, len(content) - 8)
        if content[at] & 0x7F == 1 and content[at + 2 : at + 7] == b"\0\0\0\0\x08"
    ]
