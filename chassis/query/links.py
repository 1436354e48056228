"""Records that name several others in one field, found by any of these.

Behind row security an index serves leakproof operators alone, and that of arrays is none (decision 0013). So each name
is a term among those of text search, whose index is one of plain texts.
"""

from __future__ import annotations

from functools import cache

from google.protobuf.descriptor import Descriptor

from chassis.contract import is_repeated, is_subject


@cache
def linked(resource: Descriptor) -> frozenset[str]:
    """The fields of a resource that name several records each, on whose timelines it stands."""
    return frozenset(field.name for field in resource.fields if is_repeated(field) and is_subject(field))


def link(field: str, record_id: str) -> str:
    """The term of a record that names another one in a field. It begins as no word does, so no text search meets it."""
    return f"\x01{field}\x01{record_id}"
