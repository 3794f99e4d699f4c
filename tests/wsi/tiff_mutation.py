"""Change one thing in the directories of a classic little-endian TIFF file."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
VALUES = (0, 1, 2, 3, 5, 7, 8, 16, 255, 256, 4097, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Entry:
    """One entry of a directory: where it lies, its tag, type, count and value field."""

    at: int
    code: int
    kind: int
    count: int
    value: int


def directories(data: bytes) -> list[tuple[int, list[Entry], int]]:
    """Every directory of the main chain and the place of its pointer to the next; SubIFDs follow."""
    found = []
    waiting, seen = [struct.unpack_from("<I", data, 4)[0]], set()
    while waiting:
        at = waiting.pop(0)
        if not at or at in seen:
            continue
        seen.add(at)
        (number,) = struct.unpack_from("<H", data, at)
        entries = [Entry(p, *struct.unpack_from("<HHII", data, p)) for p in range(at + 2, at + 2 + 12 * number, 12)]
        pointer = at + 2 + 12 * number
        found.append((at, entries, pointer))
        waiting.append(struct.unpack_from("<I", data, pointer)[0])
        for entry in entries:
            if entry.code == 330:
                places = (entry.value,) if entry.count == 1 else ()
                waiting += places or struct.unpack_from(f"<{entry.count}I", data, entry.value)
    return found


def mutated(data: bytes, which: int, how: int, number: int, place: int) -> bytes:
    """The file with one entry changed; the numbers choose entry, kind of change, new value and element."""
    out = bytearray(data)
    found = directories(data)
    entries = [entry for _, part, _ in found for entry in part]
    entry = entries[which % len(entries)]
    value = VALUES[number % len(VALUES)]
    kind = how % 7
    if kind == 0:  # the value, or where the values lie
        struct.pack_into("<I", out, entry.at + 8, value)
    elif kind == 1:
        struct.pack_into("<I", out, entry.at + 4, value)  # the count
    elif kind == 2:
        struct.pack_into("<H", out, entry.at + 2, (1, 2, 3, 4, 5, 7, 9, 11, 12, 16, 99)[number % 11])
    elif kind == 3:
        struct.pack_into("<H", out, entry.at, (254, 256, 257, 258, 259, 262, 277, 317, 330, 338, 339, 0)[number % 12])
    elif kind == 4:  # a loop, or a chain that leads nowhere
        pointer = found[which % len(found)][2]
        target = [at for at, _, _ in found] + [value]
        struct.pack_into("<I", out, pointer, target[number % len(target)])
    elif kind == 5:  # one element of a list
        size = _SIZES.get(entry.kind, 1)
        if entry.count * size > 4:
            at = entry.value + place % entry.count * size
            new = value.to_bytes(8, "little")[:size]
            out[at : at + len(new)] = new
        else:
            struct.pack_into("<I", out, entry.at + 8, value)
    else:  # a piece of the file is other bytes
        at = place % len(out)
        out[at : at + 1 + number] = bytes((value + i) % 256 for i in range(len(out[at : at + 1 + number])))
    return bytes(out)
