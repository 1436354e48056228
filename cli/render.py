"""How things look on a terminal: the two outputs, figures, times, amounts, bars."""

from __future__ import annotations

import datetime as dt
import io
import json
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_json(value: Any) -> None:
    """A value as JSON, for programs: plain text whatever the terminal is."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table with these columns, some flush right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def print_table(made: Table) -> None:
    """A table as wide as the terminal; as wide as it needs where the output is no terminal."""
    if stdout.is_terminal:
        stdout.print(made, soft_wrap=False)
        return
    wide = Console(file=io.StringIO(), highlight=False, width=1_000)
    with wide.capture() as captured:
        wide.print(made)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def money(value: Mapping[str, Any]) -> str:
    """google.type.Money as `1,234.50 BRL`."""
    amount = Decimal(value.get("units", "0") or 0) + Decimal(value.get("nanos", 0)) / 1_000_000_000
    text = f"{amount:,.2f}" if amount == round(amount, 2) else f"{amount:,.9f}".rstrip("0")
    return f"{text.removesuffix('.00')} {value.get('currency_code', '')}".strip()


def moment(text: str) -> str:
    """A timestamp as `2018-02-26 22:58:54`, in UTC; parts of a second where it has them."""
    return text.replace("T", " ").removesuffix("Z")


def duration(text: str | None) -> str:
    """A duration such as `1272000s` as `14.7 d`; a dash where there is none."""
    return "–" if text is None else seconds(float(text.removesuffix("s")))


def seconds(value: float) -> str:
    """Seconds in the unit that fits: µs, ms, s, min, h, d."""
    size = abs(value)
    for unit, least in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if size >= least:
            return f"{value / least:.1f} {unit}"
    if size >= 1 or size == 0:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if size >= 1e-3 else f"{value * 1e6:.3g} µs"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as per cent; a dash where there is none."""
    return "–" if value is None else f"{value * 100:.{digits}f} %"


def bar(value: float, full: float, width: int = 20) -> str:
    """A bar whose length is `value` of `full`."""
    eighths = round(max(0.0, min(1.0, value / full if full else 0.0)) * width * 8)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(width)


def interval_bar(rate: float, low: float, high: float, full: float, width: int = 24) -> str:
    """A rate as a bar and its interval as a line through the bar's end: `███╌┿─┤`."""
    place = [min(width - 1, int(value / full * width)) if full else 0 for value in (low, rate, high)]
    cells = []
    for index in range(width):
        if place[0] <= index <= place[2]:
            cells.append("●" if index == place[1] else "━")
        else:
            cells.append("█" if index < place[0] else " ")
    return "".join(cells)


def cell(value: Any) -> str:
    """Any JSON value as the text of a table's cell, safe for rich."""
    return escape(plain(value))


def plain(value: Any) -> str:
    """Any JSON value as short text."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case {"currency_code": _}:
            return money(value)
        case {"display_name": str(name)} | {"address": str(name)} | {"number": str(name)}:
            return name
        case {"system": str(system), "id": str(record_id)}:
            return f"{system}:{record_id}"
        case {"year": int(year), "month": int(month), "day": int(day)}:
            return dt.date(year, month, day).isoformat()
        case list():
            return ", ".join(plain(item) for item in value)
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case str() if looks_like_time(value):
            return moment(value)
        case _:
            return str(value)


def short_enum(field: str, value: Any) -> Any:
    """An enum's value without its prefix, `converted` for LEAD_STATUS_CONVERTED; any other value as it is."""
    marker = f"_{field.upper()}_"
    if isinstance(value, str) and marker in value and value.isupper():
        return value.partition(marker)[2].lower()
    return value


def looks_like_time(text: str) -> bool:
    """Whether a text is a timestamp of the API."""
    return len(text) >= 20 and text[10] == "T" and text.endswith("Z") and text[:4].isdigit()
