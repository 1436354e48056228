"""The records of a list's reply, taken out of it unopened: what they look like as JSON may be known already."""

from __future__ import annotations

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def records_of(field: int, data: bytes) -> tuple[list[bytes], bytes]:
    """The elements of a message's repeated message field, and the message without them.

    Raises ValueError where ``data`` is no message (protobuf encoding, "Message Structure").
    """
    records: list[bytes] = []
    rest: list[bytes] = []
    at, end, wanted = 0, len(data), field << 3 | _LENGTH
    while at < end:
        begin = at
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _LENGTH:
            size, at = _varint(data, at)
            start, at = at, at + size
            if tag == wanted and at <= end:
                records.append(data[start:at])
                continue
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("no such wire type")
        if at > end:
            raise ValueError("it ends in the middle of a field")
        rest.append(data[begin:at])
    return records, b"".join(rest)


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
