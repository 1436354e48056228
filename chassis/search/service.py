"""What every service of the platform lets the gateway ask: which of its records a text finds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from crm.internal.v1 import search_pb2 as pb
from crm.type.v1 import options_pb2
from crm.type.v1.search_pb2 import SearchFact, SearchResult
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from chassis import context
from chassis.listing import joined
from chassis.resource import Resource
from chassis.rows import amount
from chassis.search.find import Found, find, searchable
from chassis.search.query import Fit
from chassis.search.texts import Text, opened, title_of
from chassis.search.words import words
from chassis.service import Service
from chassis.work import View

DEFAULT_SIZE: Final = 20
MAX_SIZE: Final = 100
_MOST_FACTS: Final = 8


class Search(Service, serves="crm.internal.v1.SearchService"):
    """Finds this service's records by text."""

    async def Search(self, request: pb.SearchRequest, tx: View) -> bytes:
        """The records that fit best, of the kinds that the caller may read."""
        return await response(tx, self.platform.resources.values(), request.types, request.query, request.page_size)


async def response(
    tx: View, resources: Iterable[Resource[Any]], types: Sequence[str], query: str, page_size: int
) -> bytes:
    """A SearchResponse: those of the kinds' records that fit best, with the fields that the caller may read."""
    open_ = searchable(resources, types, context.current().caller)
    found = await find(tx, open_, query, size_of(page_size))
    return joined(pb.SearchResponse.RESULTS_FIELD_NUMBER, map(_shown_now, found))


def size_of(page_size: int) -> int:
    """How many results an answer has at most."""
    return min(page_size or DEFAULT_SIZE, MAX_SIZE)


def _shown_now(found: Found) -> bytes:
    return _listed(found.resource, found.data, context.fields(found.resource.kind.descriptor).readable, found.fit)


# Whoever types goes on finding the same records for the same words.
@lru_cache(maxsize=4096)
def _listed(resource: Resource[Any], data: bytes, readable: frozenset[str], fit: Fit) -> bytes:
    """A found record as a list of findings shows it."""
    record, known = opened(resource, data)
    title = title_of(resource.kind.descriptor)
    found: Any = record
    return SearchResult(
        type=resource.kind.prefix,
        id=found.id,
        title=getattr(record, title) if title in readable else "",
        field=fit.text.path,
        snippet=fit.text.value,
        score=fit.score,
        update_time=found.update_time,
        owner_id=getattr(record, "owner_id", "") if "owner_id" in readable else "",
        facts=list(_facts(record, known, readable))[:_MOST_FACTS],
    ).SerializeToString()


def _facts(record: Message, texts: Sequence[Text], readable: frozenset[str]) -> Iterator[SearchFact]:
    told = {word for text in texts if text.is_title for word in text.forms}
    found: dict[str, list[Text]] = {}
    for text in texts:
        found.setdefault(text.name, []).append(text)
    for field, value in record.ListFields():
        if field.name not in readable:
            continue
        for text in found.get(field.name, ()):
            if not (text.is_title or (text.how == options_pb2.SEARCHED_WORDS and told.issuperset(words(text.value)))):
                yield SearchFact(field=text.path, value=text.value)
        if not field.is_repeated and (shown := _shown(field, value)):
            yield SearchFact(field=field.name, value=shown)


def _shown(field: FieldDescriptor, value: Any) -> str:
    """A state by its name without prefix, a sum with its currency; empty for what is neither."""
    if field.enum_type is not None:
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        known = field.enum_type.values_by_number.get(value)
        return known.name.removeprefix(prefix) if known is not None else ""
    if field.message_type is not None and field.message_type.full_name == "google.type.Money":
        return f"{amount(value):.2f} {value.currency_code}"
    return ""
