"""Record ids: TypeIDs, a type prefix and a UUIDv7 in base32 (TypeID spec 0.3)."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Final
from uuid import UUID

import uuid_utils

# The driver's own kind of uuid.UUID, as rows have it: written in C, where the other takes 5 µs to make or to print.
from asyncpg.pgproto.pgproto import UUID as _Uuid
from uuid_utils.compat import uuid7

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
# The same digits as Python has them to the base 32.
_DIGITS: Final = str.maketrans(_ALPHABET, "0123456789abcdefghijklmnopqrstuv")
_PREFIX: Final = re.compile(r"[a-z]([a-z_]{0,61}[a-z])?")
_SUFFIX: Final = re.compile(f"[{_ALPHABET}]*")
_LENGTH: Final = 26

# A forked process must not draw the numbers that its parent draws.
os.register_at_fork(after_in_child=uuid_utils.reseed_rng)


def new_uuid() -> UUID:
    """A fresh UUIDv7: its order is the order of making (RFC 9562)."""
    return uuid7()


def uuid(text: str) -> UUID:
    """The UUID that a text spells. Raises ValueError for other texts."""
    found: UUID = _Uuid(text)
    return found


def new(prefix: str) -> str:
    """A fresh id, for example ``contact_01h455vb4pex5vsknk084sn02q``."""
    return encode(prefix, new_uuid())


def encode(prefix: str, uuid: UUID) -> str:
    """The id that shows ``uuid`` as a record of the kind ``prefix``."""
    number, letters = uuid.int, []
    for _ in range(_LENGTH):
        letters.append(_ALPHABET[number & 31])
        number >>= 5
    return f"{prefix}_{''.join(reversed(letters))}"


@lru_cache(maxsize=4096)  # each id is asked about several times while its record is worked on
def decode(text: str) -> tuple[str, UUID]:
    """Prefix and UUID of an id.

    Raises ValueError, with what was wrong, when ``text`` is not a well-formed id.
    """
    prefix, separator, suffix = text.rpartition("_")
    if not separator or not _PREFIX.fullmatch(prefix):
        raise ValueError("an id has a type prefix, such as 'contact_01h455vb4pex5vsknk084sn02q'")
    if len(suffix) != _LENGTH or suffix[0] > "7":
        raise ValueError(f"an id ends in {_LENGTH} characters, the first of them 0 to 7")
    if not _SUFFIX.fullmatch(suffix):
        raise ValueError("an id uses the digits and lower-case letters without i, l, o and u")
    return prefix, _Uuid(int(suffix.translate(_DIGITS), 32).to_bytes(16))
