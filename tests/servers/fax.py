"""A page to fax: black bars on white, as TIFF class F (ITU-T T.4, one-dimensional)."""

from __future__ import annotations

import struct
from pathlib import Path

WIDTH, HEIGHT = 1728, 400
_EOL = "000000000001"
_WHITE = "010011011" + "00110101"  # 1728 white, 0 black: the whole line
_BLACK = "00110101" + "0000001100101" + "0000110111"  # 0 white, 1728 black, 0 white


def write_page(path: Path) -> None:
    """Write one page of 204 by 98 dots an inch."""
    lines = [_BLACK if row % 40 < 8 else _WHITE for row in range(HEIGHT)]
    bits = "".join(_EOL + line for line in lines) + _EOL * 6
    bits += "0" * (-len(bits) % 8)
    strip = int(bits, 2).to_bytes(len(bits) // 8, "big")
    # Tag, type (3 = short, 4 = long, 5 = fraction), value or where it is.
    after = 8 + 2 + 12 * 14 + 4
    fields = [
        (254, 4, 2), (256, 4, WIDTH), (257, 4, HEIGHT), (258, 3, 1), (259, 3, 3), (262, 3, 0),
        (266, 3, 1), (273, 4, after + 16), (277, 3, 1), (278, 4, HEIGHT), (279, 4, len(strip)),
        (282, 5, after), (283, 5, after + 8), (296, 3, 2),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value) for tag, kind, value in fields
    )
    resolution = struct.pack("<IIII", 204, 1, 98, 1)
    directory = struct.pack("<H", len(fields)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + resolution + strip)


def dimensions(path: Path) -> tuple[int, int]:
    """Width and length of a TIFF's first page, in dots."""
    data = path.read_bytes()
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    found = {}
    for number in range(count):
        tag, kind = struct.unpack_from(f"{order}HH", data, at + 2 + 12 * number)
        found[tag] = struct.unpack_from(
            f"{order}{'H' if kind == 3 else 'I'}", data, at + 10 + 12 * number
        )[0]
    return found[256], found[257]
