"""Texts from cells as the API's JSON holds them. Every function raises ValueError that ends the
sentence "'…' ": what the text is not, and what would be right."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from cli.importing.targets import Kind

_YES, _NO = {"true", "yes", "y", "1"}, {"false", "no", "n", "0"}
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_GROUPED = {
    ".": re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?"),
    ",": re.compile(r"[+-]?[0-9]{1,3}(\.[0-9]{3})+(,[0-9]+)?"),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """How cells are to be read.

    `zone` is where times without a zone are, and where a date's midnight is. `decimal` is the decimal mark
    the user names; without one only plain numbers with a point are read, since `1,234` could be either.
    `date_format` is a strptime format tried before ISO 8601.
    """

    zone: ZoneInfo
    currency: str = ""
    decimal: str = ""
    date_format: str = ""

    def value(self, kind: Kind, text: str, currency: str = "") -> Any:
        """A cell's text as JSON. `currency` is the row's own, where it names one."""
        match kind:
            case Kind.TEXT:
                return text
            case Kind.TAGS:
                return [part for piece in re.split(r"[;,]", text) if (part := piece.strip())]
            case Kind.INTEGER:
                return self.whole(text)
            case Kind.NUMBER:
                return float(self.number(text))
            case Kind.DECIMAL:
                return {"value": f"{self.number(text):f}"}
            case Kind.FLAG:
                return flag(text)
            case Kind.MONEY:
                return money(self.number(text), currency or self.currency)
            case Kind.DATE:
                day = self.moment(text)
                return {"year": day.year, "month": day.month, "day": day.day}
            case Kind.TIME:
                return self.time(text)

    def number(self, text: str) -> Decimal:
        """An exact number, without a currency sign."""
        plain = text
        if self.decimal:
            group = "," if self.decimal == "." else "."
            if _GROUPED[self.decimal].fullmatch(text):
                plain = text.replace(group, "")
            plain = plain.replace(self.decimal, ".") if group not in plain else plain
        if not _NUMBER.fullmatch(plain):
            hint = " (--decimal says whether a comma or a point is the decimal mark)" if "," in text else ""
            raise ValueError(f"is not a number such as 1234.50{hint}")
        try:
            return Decimal(plain)
        except InvalidOperation as error:
            raise ValueError("is not a number") from error

    def whole(self, text: str) -> int:
        """A whole number; 12.0 is one."""
        number = self.number(text)
        if number != number.to_integral_value():
            raise ValueError("is not a whole number")
        return int(number)

    def time(self, text: str) -> str:
        """A time as RFC 3339 in UTC. One without zone is read in `zone`, a date as its midnight there."""
        moment = self.moment(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=self.zone)
        try:
            return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
        except OverflowError as error:
            raise ValueError("is not a time that can be kept") from error

    def moment(self, text: str) -> dt.datetime:
        """A date or time as it is written."""
        if self.date_format:
            try:
                return dt.datetime.strptime(text, self.date_format)  # noqa: DTZ007 - the caller sets the zone
            except ValueError:
                pass
        try:
            return dt.datetime.fromisoformat(text)
        except ValueError as error:
            shape = f"{self.date_format} or " if self.date_format else ""
            hint = "" if self.date_format else " (--date-format reads others)"
            raise ValueError(f"is not a time written as {shape}2018-02-26 19:58:54{hint}") from error


def flag(text: str) -> bool:
    """Yes or no."""
    word = text.lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError("is neither true nor false (yes and no, 1 and 0 will do)")


def money(amount: Decimal, currency: str) -> dict[str, Any]:
    """An exact amount as google.type.Money; at most nine decimals, no exponent."""
    if not currency:
        raise ValueError("is an amount without a currency: name it with --currency, such as --currency EUR")
    units = int(amount)
    nanos = (amount - units) * 1_000_000_000
    if nanos != nanos.to_integral_value():
        raise ValueError("has more than nine decimals")
    if abs(units) >= 1 << 63:
        raise ValueError("is too large an amount")
    found: dict[str, Any] = {"currency_code": currency, "units": str(units)}
    if nanos:
        found["nanos"] = int(nanos)
    return found
