"""What a caller may see, as every process reads it."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from crm.internal.v1 import access_pb2 as pb

from chassis import context, contract, ids
from chassis.access import Access
from chassis.context import Call, Caller

USER, MATE = ids.new("user"), ids.new("user")


def access(default: pb.Visibility.ValueType = pb.VISIBILITY_ALL, user_id: str = USER) -> pb.Access:
    """A message of a user with a mate."""
    message = pb.Access(default_visibility=default, user_id=user_id)
    message.team_user_ids.append(ids.decode(MATE)[1].bytes)
    return message


def test_a_visibility_names_owners() -> None:
    me, mate = (ids.decode(each)[1] for each in (USER, MATE))
    assert Access(access(pb.VISIBILITY_ALL)).owners("deal") is None
    assert Access(access(pb.VISIBILITY_OWN)).owners("deal") == [me]
    assert set(Access(access(pb.VISIBILITY_TEAM)).owners("deal") or ()) == {me, mate}
    message = access(pb.VISIBILITY_ALL)
    message.visibility.add(resource="deal", visibility=pb.VISIBILITY_OWN)
    assert Access(message).owners("deal") == [me]
    assert Access(message).owners("lead") is None


def test_what_is_not_said_opens_nothing() -> None:
    assert Access(pb.Access()).owners("deal") == []
    assert Access(access(pb.VISIBILITY_OWN, user_id="")).owners("deal") == []
    assert Access.decode(b"\x20\x63").owners("deal") == []  # a visibility that nobody knows
    message = access()
    message.fields.add(resource="deal", field="amount")
    assert Access(message).rules(contract.load().resources["deal"].descriptor)[0] == {"amount"}


@pytest.mark.parametrize("encoded", [b"\xff", b"\x12\x02ab", b"\x0a\x01x"], ids=["bytes", "team", "user"])
def test_damaged_rules_are_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError):
        Access.decode(encoded)


def test_callers_are_told_apart_by_what_they_see() -> None:
    tenant = uuid4()
    callers = [
        Caller(tenant, USER, frozenset({"*"}), access=each)
        for each in (None, Access(access(pb.VISIBILITY_OWN)), Access(access(pb.VISIBILITY_TEAM)))
    ]
    assert len(set(callers)) == 3
    again = Access.decode(Access(access(pb.VISIBILITY_OWN)).encoded)
    assert Caller(tenant, USER, frozenset({"*"}), access=again) == callers[1]
    assert len({*callers, Caller(tenant, USER, frozenset({"*"}), access=again)}) == 3


def test_rules_about_fields_hold_for_the_caller_and_not_for_a_service_that_acts_for_it() -> None:
    message = access()
    for name, left in (("amount", pb.FIELD_ACCESS_HIDDEN), ("id", pb.FIELD_ACCESS_HIDDEN)):
        message.fields.add(resource="deal", field=name, access=left)
    message.fields.add(resource="deal", field="tags", access=pb.FIELD_ACCESS_READ_ONLY)
    deal = contract.load().resources["deal"].descriptor
    who = Caller(uuid4(), USER, frozenset({"*"}), "gateway", access=Access(message))
    every = frozenset(each.name for each in deal.fields)
    with context.enter(Call(who, "", time.monotonic() + 1)):
        assert context.fields(deal).readable == every - {"amount"}
        assert context.fields(deal).filterable == every - {"amount"}
        assert context.fields(deal).writable == every - {"amount", "tags"}
        assert context.owners(deal) is None
        with context.unrestricted():
            assert context.fields(deal).readable == every
    acting = Caller(who.tenant, USER, who.scopes, "sales", "sales", access=who.access)
    assert context.fields_for(acting, deal).readable == every
