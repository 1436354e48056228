"""Which function reacts to which events, and with what kind of effect."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import ModuleType

from chassis.change import Change
from chassis.contract import load
from chassis.db import Tx

Handler = Callable[[Change, Tx], Awaitable[None]]

_ATTRIBUTE = "rapport_reactions"
# Wildcards stand at the end alone, so that two patterns are nested or disjoint: JetStream refuses the others.
_PATTERN = re.compile(r"crm(\.[A-Za-z0-9_]+){0,4}(\.>|\.\*)?")
_VERSION = re.compile(r"v\d+")


class Effect(Enum):
    """How a reaction has exactly one effect although its event may come twice, late, or out of order.

    STATE keeps a copy of `after`: it subscribes to every verb of the resource and upserts where the revision
    is higher. LOG inserts a row keyed by the event's id and leaves one that is there. ACT is everything else:
    the event is entered in the inbox in the same transaction, and a reaction that finds it there is not run.
    """

    STATE = "state"
    LOG = "log"
    ACT = "act"


@dataclass(frozen=True)
class Reaction:
    """A handler, the events it is for, and its kind of effect. ``name`` is what the inbox knows it by."""

    pattern: str
    effect: Effect
    handler: Handler

    @property
    def name(self) -> str:
        """The handler's own name: renaming an ACT handler makes it react again to what comes again."""
        return self.handler.__name__

    def matches(self, event_type: str) -> bool:
        """Whether the reaction is for events of this type."""
        if self.pattern.endswith(".>"):
            return event_type.startswith(self.pattern[:-1])
        if self.pattern.endswith(".*"):
            return event_type.rpartition(".")[0] == self.pattern[:-2]
        return event_type == self.pattern


def on(pattern: str, *, effect: Effect) -> Callable[[Handler], Handler]:
    """Declares a function a reaction to events of a type, such as ``crm.sales.v1.Lead.converted``, or of several:
    ``crm.sales.v1.Lead.*``, ``crm.sales.>``, ``crm.>``.

    The function gets the change and a transaction of the change's tenant, which commits before the event
    counts as done. It may be run again after a rollback, and in one transaction with reactions to other events.
    It raises to be tried again (a failure that time may cure: Unavailable, Aborted, NotFound …, or a lost
    connection), or to send the event to the dead letters (anything else).
    """
    if not _PATTERN.fullmatch(pattern):
        raise ValueError(f"'{pattern}' is no type of event, nor one that ends in '.*' or '.>'")

    def declare(handler: Handler) -> Handler:
        declared = getattr(handler, _ATTRIBUTE, ())
        setattr(handler, _ATTRIBUTE, (*declared, Reaction(pattern, effect, handler)))
        return handler

    return declare


def reactions_of(module: ModuleType) -> list[Reaction]:
    """The reactions that a module declares or has imported.

    Raises ValueError for a pattern that no event of the contract matches, and for ACT handlers of one name.
    """
    handlers = {id(value): value for value in vars(module).values() if hasattr(value, _ATTRIBUTE)}
    found: list[Reaction] = [each for value in handlers.values() for each in getattr(value, _ATTRIBUTE)]
    for reaction in found:
        if not any(map(reaction.matches, load().event_types)):
            raise ValueError(f"{module.__name__}.{reaction.name}: no event matches '{reaction.pattern}'")
    acting = {each.handler for each in found if each.effect is Effect.ACT}
    if len({each.__name__ for each in acting}) < len(acting):
        raise ValueError(f"{module.__name__}: two reactions that act have the same name")
    return found


def subject_of(event_type: str, tenant_hex: str) -> str:
    """The subject that carries an event: ``crm.sales.v1.Deal.won`` becomes ``crm.sales.deal.won.<tenant>``."""
    return f"{_subject(event_type)}.{tenant_hex}"


@cache
def _subject(event_type: str) -> str:
    crm, service, _, resource, verb = event_type.split(".")
    return f"{crm}.{service}.{_snake(resource)}.{verb}"


def filters(reactions: Iterable[Reaction]) -> list[str]:
    """The subjects that reach every reaction, without those that another one covers."""
    wanted = {_filter(each.pattern) for each in reactions}
    return sorted(each for each in wanted if not any(_covers(other, each) for other in wanted - {each}))


def _filter(pattern: str) -> str:
    tokens = [_snake(each) for each in pattern.split(".") if not _VERSION.fullmatch(each)]
    return ".".join(tokens if tokens[-1] == ">" else [*tokens, "*"])


def _covers(wide: str, narrow: str) -> bool:
    wide_tokens, narrow_tokens = wide.split("."), narrow.split(".")
    for index, part in enumerate(wide_tokens):
        if part == ">":
            return True
        if index >= len(narrow_tokens) or narrow_tokens[index] == ">":
            return False
        if part not in ("*", narrow_tokens[index]):
            return False
    return len(wide_tokens) == len(narrow_tokens)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
