"""Damage to files: what transfers, disks and strangers do to bytes, and lies in the headers of the formats that are read."""

import io
import json
import struct
import zipfile
from collections.abc import Callable

import numpy as np


MOST = 1 << 20  # bytes that a mutation adds
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
HOSTILE = (  # values of a field of JSON
    *(None, True, False, "", "x" * 100_000, "\ud800", "../../etc", "nan", [], {}, [[]], [None], {"": None}),
    *(0, -1, 1, 2, 0.5, -0.0, 1e300, -1e300, 1e-320, float("nan"), float("inf"), 2**31, 2**63, 10**9, 10**12, 10**400),
    *([0] * 10_000, [1e9] * 3, [10**9] * 4, [[1, 2], [3]], [["a"]]),
)
DEEP = 100_000  # brackets, beyond the depth that any parser of JSON recurses to


# ---- Bytes ----------------------------------------------------------------------------------------------------------


def damaged(content: bytes, draw: np.random.Generator) -> bytes:
    """A copy of a file with one to three kinds of damage."""
    for _ in range(int(draw.integers(1, 4))):
        content = BYTES[int(draw.integers(len(BYTES)))](content, draw)
    return content


def _span(content: bytes, draw: np.random.Generator, longest: int = 400) -> tuple[int, int]:
    start = int(draw.integers(len(content) + 1))
    return start, min(len(content), start + int(draw.integers(1, longest)))


def _bits(content: bytes, draw: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for at in draw.integers(0, len(content), int(draw.integers(1, 9))) if content else ():
        changed[at] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def _noise(content: bytes, draw: np.random.Generator) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + draw.bytes(end - start) + content[end:]


def _zeros(content: bytes, draw: np.random.Generator) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + bytes(end - start) + content[end:]


def _lost(content: bytes, draw: np.random.Generator) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + content[end:]


def _more(content: bytes, draw: np.random.Generator) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + draw.bytes(end - start) + content[start:]


def _twice(content: bytes, draw: np.random.Generator) -> bytes:
    start, end = _span(content, draw, 4000)
    return content[:end] + content[start:end] + content[end:]


def _moved(content: bytes, draw: np.random.Generator) -> bytes:
    start, end = _span(content, draw, 4000)
    rest = content[:start] + content[end:]
    at = int(draw.integers(len(rest) + 1))
    return rest[:at] + content[start:end] + rest[at:]


def _cut(content: bytes, draw: np.random.Generator) -> bytes:
    return content[: int(draw.integers(len(content) + 1))]


def _appended(content: bytes, draw: np.random.Generator) -> bytes:
    return content + draw.bytes(int(draw.integers(1, 2000)))


def _extreme(content: bytes, draw: np.random.Generator) -> bytes:
    """A number of two, four or eight bytes that is extreme, in either order, near the start more often."""
    value, size = EXTREMES[int(draw.integers(len(EXTREMES)))], int(draw.choice([2, 4, 8]))
    number = (value % (1 << 8 * size)).to_bytes(size, "little" if draw.random() < 0.5 else "big")
    reach = len(content) if draw.random() < 0.5 else min(len(content), 500)
    at = int(draw.integers(reach + 1))
    return content[:at] + number + content[at + size :]


BYTES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(_bits, _bits, _noise, _zeros, _lost, _more, _twice, _moved, _cut, _appended, _extreme, _extreme),
)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def edited(value, draw: np.random.Generator):
    """A copy of a value of JSON in which one place is another value, is missing or is there once more."""
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[int(draw.integers(len(keys)))]
        copy = value.copy()
        chance = draw.random()
        if chance < 0.12:
            del copy[key]
        elif chance < 0.2 and isinstance(copy, list):
            copy.insert(key, copy[key])
        elif chance < 0.2:
            copy[f"{key}2"] = copy[key]
        else:
            copy[key] = edited(value[key], draw)
        return copy
    if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.3:
        return [value + 1, -value, value * 1000, value + 0.5, str(value)][int(draw.integers(5))]
    return HOSTILE[int(draw.integers(len(HOSTILE)))]


def deep(bracket: str = "[") -> bytes:
    return (bracket * DEEP + ("]" if bracket == "[" else "}") * DEEP).encode()


def edited_json(content: bytes, draw: np.random.Generator) -> bytes:
    """A text of JSON with an edited value, or damaged as bytes."""
    if draw.random() < 0.25:
        return damaged(content, draw)
    return json.dumps(edited(json.loads(content), draw)).encode(errors="surrogatepass")


def edited_csv(content: bytes, draw: np.random.Generator) -> bytes:
    """A table with another cell, or damaged as bytes."""
    if draw.random() < 0.3:
        return damaged(content, draw)
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = rows[int(draw.integers(len(rows)))]
    cells = (
        "",
        "1e300",
        "-1e300",
        "nan",
        "inf",
        "-1",
        "0.5",
        "x",
        '"',
        "1;2",
        "9" * 5000,
        "1_0",
        "０",
        "\0",
        "1e-400",
    )
    row[int(draw.integers(len(row)))] = cells[int(draw.integers(len(cells)))]
    if draw.random() < 0.2:
        row.append("0")
    return "\n".join(map(",".join, rows)).encode()


# ---- Arrays and tensors ---------------------------------------------------------------------------------------------


def edited_npz(content: bytes, draw: np.random.Generator) -> bytes:
    """An NPZ file with an array of another type, shape or content, with a header that lies, or damaged as bytes."""
    if draw.random() < 0.4:
        return damaged(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[int(draw.integers(len(members)))]
    if draw.random() < 0.15:
        del members[name]
    elif draw.random() < 0.5:
        members[name] = npy_header(draw) + members[name][128:]
    else:
        members[name] = npy(_other_array(np.load(io.BytesIO(members[name])), draw))
    return zipped(members)


def npy_header(draw: np.random.Generator) -> bytes:
    shapes = (
        "(1000000000000,)",
        "(-1, 3)",
        "(3, -1)",
        "()",
        "(0, 3)",
        "(4294967296, 4294967296)",
        "(1e9,)",
        "3",
        "(((",
        "(2,)*9",
    )
    types = ("<f8", "|O", "<U1000000", "|V0", "<f2", "<c16", "<M8[s]", ">i8", "x", "|b1", "[('a', '<f8')]", "<f99")
    shape, kind = shapes[int(draw.integers(len(shapes)))], types[int(draw.integers(len(types)))]
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return buffer.getvalue()


def _other_array(array: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    with np.errstate(all="ignore"):
        changes: tuple[Callable[[], np.ndarray], ...] = (
            lambda: array.astype("U8"),
            lambda: array.astype(object),
            lambda: array.astype(np.complex128),
            lambda: array.astype(np.float64) * 1e300,
            lambda: array.astype(np.float64) * np.nan,
            lambda: -array.astype(np.float64),
            lambda: array[..., None],
            lambda: array.ravel(),
            lambda: array[:0],
            lambda: np.zeros(()),
            lambda: array.astype(np.float16),
            lambda: array.astype(">i4"),
            lambda: np.concatenate([np.atleast_1d(array)] * 2),
        )
        return changes[int(draw.integers(len(changes)))]()


def edited_tensors(content: bytes, draw: np.random.Generator) -> bytes:
    """A safetensors file with another header, or damaged as bytes."""
    if draw.random() < 0.4:
        return damaged(content, draw)
    header, data = split_tensors(content)
    if draw.random() < 0.7:
        return join_tensors(edited(header, draw), data)
    lengths = (0, 1, len(content), len(content) * 2, 2**31, 2**40, 2**63, 2**64 - 1)
    return struct.pack("<Q", lengths[int(draw.integers(len(lengths)))]) + content[8:]


def split_tensors(content: bytes) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join_tensors(header, data: bytes) -> bytes:
    text = json.dumps(header).encode(errors="surrogatepass")
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text + data
