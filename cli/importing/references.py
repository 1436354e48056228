"""Names in rows become ids: owners, companies, products, campaigns, the leads to convert."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from cli.importing.directory import Directory
from cli.importing.drafts import Draft, Name
from cli.importing.tally import Tally
from cli.problems import Problem

_CREATE_OPTIONS = {"users": "--create-owners", "products": "--create-products"}


@dataclass
class References:
    """Finds what rows name, a batch at a time, and makes what may be made.

    `creates` are the collections in which unknown names become records. `leads` says that rows name leads.
    """

    directory: Directory
    tally: Tally
    creates: frozenset[str]
    leads: bool
    dry_run: bool

    def resolve(self, drafts: Sequence[Draft]) -> None:
        """Puts ids where drafts name records. A name that is not found is the row's problem and a remark."""
        wanted: dict[str, set[str]] = {}
        for each in drafts:
            for name in each.names:
                wanted.setdefault(name.collection, set()).add(name.text)
            if self.leads and (lead := each.beside.get("lead")):
                wanted.setdefault("leads", set()).add(lead)
        for collection, names in wanted.items():
            self.directory.load(collection, names)
            if collection in self.creates:
                self._make(collection, sorted(name for name in names if not self.directory.knows(collection, name)))
        for each in drafts:
            for name in each.names:
                self._put_id(each, name)

    def _make(self, collection: str, names: list[str]) -> None:
        if names:
            if not self.dry_run:
                self.directory.make(collection, names)
            self.tally.made.setdefault(collection, set()).update(names)

    def _put_id(self, each: Draft, name: Name) -> None:
        try:
            found = self.directory.find(name.collection, name.text)
        except Problem as problem:
            each.problems.append(str(problem))
            return
        if found is not None:
            each.place(name.filling, found["id"])
        elif name.collection not in self.creates:
            word = name.filling.target.name
            each.problems.append(f"unknown {word} {name.text!r}")
            self.tally.miss(word, name.text, self._cure(name))

    def _cure(self, name: Name) -> str:
        """What helps against an unknown name."""
        ways = []
        if near := self.directory.nearest(name.collection, name.text):
            ways.append(f"map it with --value {shlex.quote(f'{name.filling.target.name}:{name.text}={near}')}")
        if option := _CREATE_OPTIONS.get(name.collection):
            ways.append(f"make it with {option}")
        return ", or ".join(ways) or f"import it first with `rapport import {name.collection}`"
