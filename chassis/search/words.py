"""Words as search compares them: folded, told apart, and near each other where somebody mistyped one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import combinations
from typing import Final

MAX_TERM: Final = 100
# So many letters of a word are varied: an error further back is found by the same variants (SymSpell's prefix length).
_VARIED: Final = 7
_MIN_SPELLED: Final = 3
_MAX_SPELLED: Final = 24
_WORD: Final = re.compile(r"[^\W_]+")
_NOT_DIGIT: Final = re.compile(r"\D+")
_APOSTROPHES: Final = re.compile("['’`´]")
# Letters that are no letter with an accent to Unicode, as people without their keyboard write them.
_PLAIN: Final = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ı": "i"})


@lru_cache(maxsize=8192)
def fold(text: str) -> str:
    """The text in small letters without accents, one space between what stands apart."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text.casefold())
        text = "".join(each for each in parts if not unicodedata.combining(each)).translate(_PLAIN)
    return " ".join(text.lower().split())


@lru_cache(maxsize=8192)
def words(text: str) -> tuple[str, ...]:
    """The words of a text, folded: runs of letters and digits. An apostrophe parts none: ``O'Brien`` is ``obrien``."""
    return tuple(each[:MAX_TERM] for each in _WORD.findall(_APOSTROPHES.sub("", fold(text))))


@lru_cache(maxsize=4096)
def numbers(text: str) -> tuple[str, ...]:
    """The digits of a telephone number in E.164, with its country code and without."""
    import phonenumbers  # its tables are large, and most processes never see a number

    digits = _NOT_DIGIT.sub("", text)
    if not text.startswith("+"):
        return (digits,) if digits else ()
    try:
        national = phonenumbers.national_significant_number(phonenumbers.parse(text))
    except phonenumbers.NumberParseException:
        return (digits,) if digits else ()
    return (digits, national) if national != digits else (digits,)


def is_spelled(word: str) -> bool:
    """Whether a word can be mistyped so that one still sees which it was: letters, neither few nor many."""
    return _MIN_SPELLED <= len(word) <= _MAX_SPELLED and word.isalpha()


def errors_in(word: str) -> int:
    """How many typing errors a word of its length is forgiven."""
    return 0 if len(word) < _MIN_SPELLED else 1 if len(word) <= 5 else 2


@lru_cache(maxsize=4096)
def spellings(word: str) -> tuple[str, ...]:
    """The word's beginning, and what is left of it without one letter or two.

    Two words that differ by so many errors share one of these (the symmetric delete algorithm, SymSpell).
    """
    start = word[:_VARIED]
    found = {start}
    for gone in range(1, errors_in(word) + 1):
        keep = len(start) - gone
        found.update("".join(each) for each in combinations(start, keep))
    return tuple(sorted(found - {""}))


def distance(one: str, other: str) -> int:
    """How many letters must be changed, added, left out or swapped with the next (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        older, before = before, row
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]


def nearest(word: str, candidates: Iterable[str], most: int) -> dict[str, int]:
    """Those of the candidates that ``word`` may have been meant as, with their distances, at most so many."""
    allowed = errors_in(word)
    near = sorted((distance(word, each), each) for each in candidates if abs(len(each) - len(word)) <= allowed)
    return {each: errors for errors, each in near[:most] if errors <= allowed}
