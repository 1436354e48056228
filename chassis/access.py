"""What a caller may see of the records that its permissions open: whose records, and which fields."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Final
from uuid import UUID

from crm.internal.v1 import access_pb2 as pb
from crm.type.v1 import options_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from chassis import ids

# Where it travels between processes.
ACCESS_KEY: Final = "rapport-access-bin"
# A record is named by its id everywhere, so there is no hiding it.
_ALWAYS: Final = frozenset({"id"})


class Access:
    """An immutable set of rules. Two are equal where their serialised forms are.

    ``encoded`` is what travels, ``claim`` its SHA-256 in base64url, ``user_id`` the user's
    TypeID or an empty text, and ``user`` its UUID or None.
    """

    __slots__ = (
        "_default",
        "_hash",
        "_hidden",
        "_read_only",
        "_team",
        "_visibility",
        "claim",
        "encoded",
        "user",
        "user_id",
    )

    def __init__(self, message: pb.Access) -> None:
        self.encoded = message.SerializeToString(deterministic=True)
        self._read(message)

    @classmethod
    def decode(cls, encoded: bytes) -> Access:
        """The rules in their serialised form. Raises ValueError where it is damaged."""
        try:
            message = pb.Access.FromString(encoded)
        except DecodeError as error:
            raise ValueError("no access") from error
        made = cls.__new__(cls)
        made.encoded = encoded
        made._read(message)
        return made

    def _read(self, message: pb.Access) -> None:
        digest = hashlib.sha256(self.encoded).digest()
        self.claim = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        self._hash = int.from_bytes(digest[:8], "big", signed=True)
        self.user_id = message.user_id
        self.user = ids.decode(message.user_id)[1] if message.user_id else None
        own = frozenset({self.user} if self.user is not None else ())
        self._team = list(own | {UUID(bytes=each) for each in message.team_user_ids})
        self._visibility = {each.resource: each.visibility for each in message.visibility}
        self._default = message.default_visibility
        read_only = pb.FIELD_ACCESS_READ_ONLY
        self._hidden = frozenset((it.resource, it.field) for it in message.fields if it.access != read_only)
        self._read_only = frozenset((it.resource, it.field) for it in message.fields if it.access == read_only)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Access) and self.claim == other.claim)

    def owners(self, prefix: str) -> list[UUID] | None:
        """The users whose records of a resource may be seen; None for every record, also those that nobody owns."""
        visibility = self._visibility.get(prefix, self._default)
        if visibility == pb.VISIBILITY_ALL:
            return None
        if visibility == pb.VISIBILITY_TEAM:
            return self._team
        return [self.user] if visibility == pb.VISIBILITY_OWN and self.user is not None else []

    @property
    def has_field_rules(self) -> bool:
        """Whether any field of any resource is hidden or may not be written."""
        return bool(self._hidden or self._read_only)

    @property
    def hides(self) -> bool:
        """Whether any field of any resource is hidden."""
        return bool(self._hidden)

    def rules(self, resource: Descriptor) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the fields of a resource that are hidden, and of those that may be read alone."""
        prefix = _prefix(resource)
        hidden = frozenset(name for kind, name in self._hidden if kind == prefix) - _ALWAYS
        return hidden, frozenset(name for kind, name in self._read_only if kind == prefix)


@lru_cache(maxsize=256)
def _prefix(resource: Descriptor) -> str:
    return str(resource.GetOptions().Extensions[options_pb2.resource].type_prefix)


@lru_cache(maxsize=256)
def owned_prefix(resource: Descriptor) -> str:
    """The prefix of a resource whose records have owners; empty for any other message."""
    return _prefix(resource) if "owner_id" in resource.fields_by_name else ""
