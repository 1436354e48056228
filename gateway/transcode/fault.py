"""A fault in what a client sent, and the place where it is."""

from __future__ import annotations

import re

from chassis.errors import Invalid, Reason

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_SHOWN = 64


class Fault(Exception):
    """One thing wrong with a value. Each object or list on the way out puts its own step before ``place``."""

    def __init__(self, what: str, reason: Reason.ValueType = Reason.REASON_FIELD_INVALID) -> None:
        super().__init__(what)
        self.what = what
        self.reason = reason
        self.place: list[str | int] = []

    def within(self, step: str | int) -> Fault:
        """The same fault, seen from one level further out."""
        self.place.insert(0, step)
        return self

    def failure(self, root: str = "") -> Invalid:
        """The error a client gets; ``root`` names what the place starts from where it is no field."""
        field = path(self.place)
        message = ": ".join(part for part in (root, field, self.what) if part)
        return Invalid(self.reason, message, violations=[(field, self.what)] if field else [])


def path(place: list[str | int]) -> str:
    """A place as a field path, for example ``contact.emails[0].address``."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN.fullmatch(step) and len(step) <= _SHOWN:
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


def shown(name: str) -> str:
    """A name that the client made up, safe to show and never long."""
    cut = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
    return ascii(cut)
