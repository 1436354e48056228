"""Names in a file, found as records of the platform: companies, products, owners, leads."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from cli.client import PAGE_SIZE, Client, Json
from cli.problems import Problem
from cli.resources import BY_PLURAL

MOST_KEPT = 20_000
# Filters travel in the address, which servers hold to some kilobytes; one has at most 100 comparisons.
FILTER_CHARACTERS, FILTER_NAMES = 4_000, 50
_AMBIGUOUS: Json = {}


@dataclass
class Shelf:
    """What is known of one collection: answers by name, and whether these are all there are."""

    answers: dict[str, Json | None] = field(default_factory=dict)
    complete: bool = False
    looked: bool = False


@dataclass
class Directory:
    """Finds records by the external id or display name that a file calls them by.

    A record whose external id is of `system` is taken first, then one of that display name, then one whose
    external id in any system is the name. Two that fit equally well are ambiguous: none is taken.
    """

    client: Client
    system: str
    shelves: dict[str, Shelf] = field(default_factory=dict)

    def load(self, collection: str, names: Collection[str]) -> None:
        """Looks up the names not yet known, many in a call."""
        shelf = self.shelves.setdefault(collection, Shelf())
        if not shelf.looked and collection != "leads":
            self._load_first_page(collection, shelf)
        if len(shelf.answers) > MOST_KEPT and not shelf.complete:
            shelf.answers.clear()
        unknown = sorted({name for name in names if name not in shelf.answers})
        if not shelf.complete:
            for some in chunks(unknown):
                found = list(self.client.pages(f"/v1/{collection}", collection, {"filter": any_of(some)}))
                shelf.answers.update({name: self._choose(name, found) for name in some})

    def knows(self, collection: str, name: str) -> bool:
        """Whether any record is called so."""
        return self.shelves[collection].answers.get(name) is not None

    def find(self, collection: str, name: str) -> Json | None:
        """The record of that name; None where there is none. Raises Problem where several fit."""
        shelf = self.shelves[collection]
        found = shelf.answers.get(name)
        if found is _AMBIGUOUS:
            singular = BY_PLURAL[collection].prefix
            raise Problem(f"several {collection} are called {name!r}: map {singular}_id or an external id")
        return found

    def nearest(self, collection: str, name: str) -> str:
        """The known name most like this one; empty where none is."""
        known = [text for text, record in self.shelves[collection].answers.items() if record]
        return next(iter(difflib.get_close_matches(name, known, 1, 0.75)), "")

    def make(self, collection: str, names: Sequence[str]) -> None:
        """Makes records that are called so, with the name as external id, so that a second run finds them."""
        singular = BY_PLURAL[collection].prefix
        for start in range(0, len(names), PAGE_SIZE):
            some = names[start : start + PAGE_SIZE]
            requests = [
                {singular: {"display_name": name, "external_ids": [{"system": self.system, "id": name}]}}
                for name in some
            ]
            body: Json = {"requests": requests, "request_id": str(uuid.uuid4())}
            results = self.client.post(f"/v1/{collection}:batchUpsert", body)["results"]
            for name, result in zip(some, results, strict=True):
                if singular not in result:
                    status = result.get("status", {})
                    raise Problem(f"cannot make the {singular} {name!r}: {status.get('message', status)}")
                self.shelves[collection].answers[name] = result[singular]

    def _load_first_page(self, collection: str, shelf: Shelf) -> None:
        """Takes everything at once where one page holds it, which saves asking name by name."""
        shelf.looked = True
        page = self.client.get(f"/v1/{collection}", {"page_size": PAGE_SIZE})
        if not page.get("next_page_token"):
            shelf.complete = True
            records = page.get(collection, [])
            names = {name for record in records for name in names_of(record)}
            shelf.answers = {name: self._choose(name, records) for name in names}

    def _choose(self, name: str, records: Sequence[Json]) -> Json | None:
        own = {"system": self.system, "id": name}
        for fits in (
            [record for record in records if own in record.get("external_ids", [])],
            [record for record in records if record.get("display_name") == name],
            [record for record in records if name in (key["id"] for key in record.get("external_ids", []))],
        ):
            if fits:
                return fits[0] if len({record["id"] for record in fits}) == 1 else _AMBIGUOUS
        return None


def names_of(record: Json) -> Iterator[str]:
    """Everything a record may be called by."""
    if display_name := record.get("display_name"):
        yield display_name
    for key in record.get("external_ids", []):
        yield key["id"]


def chunks(names: Sequence[str]) -> Iterator[list[str]]:
    """The names in portions whose filters are not too long."""
    some: list[str] = []
    length = 0
    for name in names:
        length += len(any_of([name]))
        if some and (length > FILTER_CHARACTERS or len(some) == FILTER_NAMES):
            yield some
            some, length = [], len(any_of([name]))
        some.append(name)
    if some:
        yield some


def any_of(names: Sequence[str]) -> str:
    """A filter for the records called by one of the names."""
    return " OR ".join(f"display_name = {quoted(name)} OR external_ids.id = {quoted(name)}" for name in names)


def quoted(text: str) -> str:
    """A text as a filter writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
