"""What search knows of a record: its texts, and the terms that they are kept under."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

from crm.type.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis.contract import descriptor_of, is_repeated
from chassis.query.links import link, linked
from chassis.resource import Resource
from chassis.search.words import MAX_TERM, fold, numbers, words

_TITLES: Final = ("display_name", "title")
_WORDS: Final = options_pb2.SEARCHED_WORDS
_WHOLE: Final = options_pb2.SEARCHED_WHOLE
# A record is found by so many terms at most; what is beyond them are words of very long texts.
_MAX_TERMS: Final = 200


class Text(NamedTuple):
    """A text of a record: the resource's field, the path of the text, what it says, how it is searched, and its terms.

    ``forms`` are the words of a text that is searched by words, and of another the terms that begin it.
    """

    name: str
    path: str
    value: str
    how: int
    forms: tuple[str, ...]

    @property
    def is_title(self) -> bool:
        """Whether it is what the record is called."""
        return self.path in _TITLES


class _Source(NamedTuple):
    field: str
    inner: str
    how: int
    repeated: bool


@cache
def title_of(resource: Descriptor) -> str:
    """The field that says what a record is called; empty where none does."""
    return next((name for name in _TITLES if name in resource.fields_by_name), "")


@cache
def is_searched(resource: Descriptor) -> bool:
    """Whether records of a kind are found by text."""
    return not resource.GetOptions().Extensions[options_pb2.resource].unsearched and bool(_sources(resource))


@cache
def _sources(resource: Descriptor) -> tuple[_Source, ...]:
    return tuple(_declared(resource))


def _declared(resource: Descriptor) -> Iterator[_Source]:
    title = title_of(resource)
    for field in resource.fields:
        if field.message_type is not None:
            for inner in field.message_type.fields:
                if how := _how(inner):
                    yield _Source(field.name, inner.name, how, is_repeated(field))
        elif how := _WORDS if field.name == title else _how(field):
            yield _Source(field.name, "", how, is_repeated(field))


def _how(field: FieldDescriptor) -> int:
    return int(field.GetOptions().Extensions[options_pb2.searched])


def texts(record: Message) -> Iterator[Text]:
    """The texts that a record is found by."""
    for field, inner, how, repeated in _sources(descriptor_of(record)):
        if not repeated and inner and not record.HasField(field):
            continue
        value: Any = getattr(record, field)
        for each in value if repeated else (value,):
            text = getattr(each, inner) if inner else each
            if text:
                yield Text(field, f"{field}.{inner}" if inner else field, text, how, _forms(text, how))


def _forms(text: str, how: int) -> tuple[str, ...]:
    if how == _WORDS:
        return words(text)
    return (fold(text)[:MAX_TERM],) if how == _WHOLE else numbers(text)


class Opened(NamedTuple):
    """A record, and the texts it is found by."""

    record: Message
    texts: tuple[Text, ...]


# Whoever types goes on finding the same records, letter by letter.
@lru_cache(maxsize=2048)
def opened(resource: Resource[Any], data: bytes) -> Opened:
    """A record from its bytes, and its texts. It is shared: whoever asks must not change it."""
    record: Message = resource.message.FromString(data)
    return Opened(record, tuple(texts(record)))


def says_the_same(before: Message, after: Message) -> bool:
    """Whether a change left all that a record is found by as it was."""
    return before.HasField("delete_time") == after.HasField("delete_time") and all(
        getattr(before, each.field) == getattr(after, each.field) for each in _sources(descriptor_of(after))
    )


def terms(record: Message) -> frozenset[str]:
    """The terms that a record is kept under: its words, and those it names; of a deleted one the latter alone."""
    resource = descriptor_of(record)
    names = frozenset(link(field, each) for field in linked(resource) for each in getattr(record, field))
    if not is_searched(resource) or record.HasField("delete_time"):
        return names
    found = dict.fromkeys(form for text in texts(record) for form in text.forms if form)
    return names.union(list(found)[:_MAX_TERMS])
