"""Patterns of events, and the subjects that carry them."""

from types import ModuleType

import pytest

from chassis.change import Change
from chassis.db import Tx
from chassis.events import Effect, Reaction, on, reactions_of
from chassis.events.reactions import filters, subject_of


async def react(change: Change, tx: Tx) -> None: ...


def reaction(pattern: str) -> Reaction:
    return Reaction(pattern, Effect.LOG, react)


def module(**handlers: object) -> ModuleType:
    made = ModuleType("services.probe.reactions")
    vars(made).update(handlers)
    return made


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("crm.sales.v1.Deal.won", "crm.sales.v1.Deal.won", "crm.sales.v1.Deal.lost"),
        ("crm.sales.v1.Deal.*", "crm.sales.v1.Deal.lost", "crm.sales.v1.DealLine.lost"),
        ("crm.sales.>", "crm.sales.v1.Lead.created", "crm.salesforce.v1.Lead.created"),
        ("crm.>", "crm.gateway.v1.ApiKey.created", "other.gateway.v1.ApiKey.created"),
    ],
)
def test_a_pattern_matches_what_it_names_and_nothing_else(pattern: str, matching: str, other: str) -> None:
    assert reaction(pattern).matches(matching)
    assert not reaction(pattern).matches(other)


def test_a_subject_names_resource_verb_and_tenant_but_no_record() -> None:
    assert subject_of("crm.gateway.v1.ApiKey.created", "0a" * 16) == f"crm.gateway.api_key.created.{'0a' * 16}"


@pytest.mark.parametrize(
    ("patterns", "subjects"),
    [
        (["crm.sales.v1.Deal.won"], ["crm.sales.deal.won.*"]),
        (["crm.gateway.v1.ApiKey.*"], ["crm.gateway.api_key.*.*"]),
        (["crm.sales.v1.Deal.won", "crm.sales.v1.Deal.*", "crm.sales.v1.Deal.won"], ["crm.sales.deal.*.*"]),
        (["crm.sales.v1.Deal.*", "crm.contacts.>", "crm.>"], ["crm.>"]),
        (["crm.sales.v1.Deal.*", "crm.sales.v1.Lead.*"], ["crm.sales.deal.*.*", "crm.sales.lead.*.*"]),
    ],
)
def test_filters_reach_every_reaction_and_never_overlap(patterns: list[str], subjects: list[str]) -> None:
    assert filters(map(reaction, patterns)) == subjects


@pytest.mark.parametrize("pattern", ["", "crm.*.v1.Deal.won", "sales.>", "crm.sales.v1.Deal.won.x", "crm..>"])
def test_what_is_no_pattern_is_refused_where_it_stands(pattern: str) -> None:
    with pytest.raises(ValueError, match="no type of event"):
        on(pattern, effect=Effect.LOG)


def test_a_pattern_that_no_event_matches_stops_the_process() -> None:
    @on("crm.sales.v1.Deal.exploded", effect=Effect.LOG)
    async def misspelt(change: Change, tx: Tx) -> None: ...

    with pytest.raises(ValueError, match="no event matches"):
        reactions_of(module(misspelt=misspelt))


def test_one_handler_may_react_to_several_patterns() -> None:
    @on("crm.sales.v1.Deal.won", effect=Effect.ACT)
    @on("crm.sales.v1.Deal.lost", effect=Effect.ACT)
    async def close(change: Change, tx: Tx) -> None: ...

    assert {each.pattern for each in reactions_of(module(close=close))} == {
        "crm.sales.v1.Deal.won",
        "crm.sales.v1.Deal.lost",
    }


def test_the_inbox_cannot_tell_two_acting_handlers_of_one_name_apart() -> None:
    def make() -> object:
        @on("crm.sales.v1.Deal.won", effect=Effect.ACT)
        async def same(change: Change, tx: Tx) -> None: ...

        return same

    with pytest.raises(ValueError, match="the same name"):
        reactions_of(module(one=make(), two=make()))
