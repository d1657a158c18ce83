# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Ways to damage bytes."""

import random
import struct

_INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFF, 0x1000, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000)
_WIDE = (0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0xFFFFFFFF81000000)


def mutate(rng: random.Random, data: bytes, most: int = 8) -> bytes:
    """Returns the bytes with a few damages, each of a random kind."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if not damaged:
            break
        place = rng.randrange(len(damaged))
        kind = rng.randrange(8)
        if kind == 0:
            damaged[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[place] = rng.randrange(256)
        elif kind == 2:
            _put(damaged, place, struct.pack("<I", rng.choice(_INTERESTING)))
        elif kind == 3:
            _put(damaged, place, struct.pack("<Q", rng.choice((*_INTERESTING, *_WIDE))))
        elif kind == 4:
            # What refers to something refers to something else of the same kind.
            other = rng.randrange(len(damaged))
            _put(damaged, place & -8, bytes(damaged[other & -8 : (other & -8) + 8]))
        elif kind == 5:
            length = rng.randint(1, 64)
            _put(damaged, place, bytes(rng.randrange(256) for _ in range(length)))
        elif kind == 6:
            del damaged[place:]
        else:
            length = rng.randint(1, 256)
            _put(damaged, place, bytes([rng.choice((0, 0xFF))]) * length)
    return bytes(damaged)


def _put(data: bytearray, place: int, what: bytes) -> None:
    end = min(len(data), place + len(what))
    data[place:end] = what[: end - place]
