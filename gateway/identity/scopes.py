"""Which permissions an API key may give."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from uuid import UUID

from chassis.context import Caller
from chassis.contract import load
from chassis.errors import Denied, Reason, invalid

_SCOPE = re.compile(r"([a-z_]+)\.([a-z_.]+|\*)")


def check(scopes: Iterable[str], maker: Caller) -> None:
    """Raises Invalid for a scope that means nothing, Denied for one that goes beyond the maker's own."""
    for index, scope in enumerate(scopes):
        place = f"scopes[{index}]"
        if not is_scope(scope):
            raise invalid(place, "it is no permission; one looks like 'deals.read', 'deals.*' or '*'")
        if not covers(maker, scope):
            text = f"{place}: a key cannot give '{scope}', which its maker does not have"
            raise Denied(Reason.REASON_PERMISSION_DENIED, text, metadata={"permission": scope})


def is_scope(scope: str) -> bool:
    """Whether a text gives permissions that there may be: one, those of an area, or all."""
    if scope == "*":
        return True
    found = _SCOPE.fullmatch(scope)
    return found is not None and found[1] in areas()


def covers(maker: Caller, scope: str) -> bool:
    """Whether a scope gives nothing that its maker does not have."""
    if scope == "*":
        return "*" in maker.scopes
    # `deals.*` asks for a permission that only `deals.*` itself or `*` gives.
    return maker.may(scope)


def meet(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """What both give."""
    nobody = UUID(int=0)
    first, second = Caller(nobody, "", one), Caller(nobody, "", other)
    return frozenset([each for each in one if covers(second, each)] + [each for each in other if covers(first, each)])


@lru_cache(maxsize=1)
def areas() -> frozenset[str]:
    """The first words of every permission a client can have."""
    declared = {method.permission.partition(".")[0] for method in load().methods.values() if not method.internal}
    return frozenset(declared | {each.plural for each in load().resources.values()})
