"""The records of a list's reply, taken out of it unopened: what they look like as JSON may be known already."""

from __future__ import annotations

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def records_of(field: int, data: bytes) -> tuple[list[bytes], bytes]:
    """The elements of a message's repeated message field, and the message without them.

    Raises ValueError where ``data`` is no message (protobuf encoding, "Message Structure").
    """
    records: list[bytes] = []
    rest: list[bytes] = []
    at, wanted = 0, field << 3 | _LENGTH
    while at < len(data):
        begin = at
        tag, start, at = _next(data, at)
        if tag == wanted:
            records.append(data[start:at])
        else:
            rest.append(data[begin:at])
    return records, b"".join(rest)


def first_of(field: int, data: bytes) -> bytes:
    """What a message says first in a field of text, bytes or a message; nothing where it does not.

    Raises ValueError as `records_of` does, for what it had to read.
    """
    at, wanted = 0, field << 3 | _LENGTH
    while at < len(data):
        tag, start, at = _next(data, at)
        if tag == wanted:
            return data[start:at]
    return b""


def _next(data: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the field that begins at a place, where its content begins and where it ends."""
    tag, start = _varint(data, at)
    kind = tag & 7
    if kind == _LENGTH:
        size, start = _varint(data, start)
        end = start + size
    elif kind == _VARINT:
        _, end = _varint(data, start)
    elif kind in (_FIXED64, _FIXED32):
        end = start + (8 if kind == _FIXED64 else 4)
    else:
        raise ValueError("no such wire type")
    if end > len(data):
        raise ValueError("it ends in the middle of a field")
    return tag, start, end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("it ends in the middle of a number")
