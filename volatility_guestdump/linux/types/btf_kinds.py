# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The kinds of types that BTF has, and how long each is; see `btf`."""

import enum

#: The kernel refuses BTF with more types (BTF_MAX_TYPE, include/uapi/linux/btf.h).
MAXIMUM_TYPES = 0xFFFFF
#: Parts of the second word of a type: how many members follow, and the kind flag.
VLEN = 0xFFFF
KIND_FLAG = 1 << 31


class Kind(enum.IntEnum):
    """Kinds of types."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


#: u32 words of a type behind the first three: (always, for each of vlen).
_EXTRA_WORDS: dict[int, tuple[int, int]] = {
    Kind.INT: (1, 0),
    Kind.PTR: (0, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FWD: (0, 0),
    Kind.TYPEDEF: (0, 0),
    Kind.VOLATILE: (0, 0),
    Kind.CONST: (0, 0),
    Kind.RESTRICT: (0, 0),
    Kind.FUNC: (0, 0),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.FLOAT: (0, 0),
    Kind.DECL_TAG: (1, 0),
    Kind.TYPE_TAG: (0, 0),
    Kind.ENUM64: (0, 3),
}

#: All u32 words of a type of each kind that five bits can say: (always, for each of vlen).
SIZES = tuple(
    (3 + _EXTRA_WORDS[kind][0], _EXTRA_WORDS[kind][1]) if kind in _EXTRA_WORDS else (0, 0)
    for kind in range(32)
)
