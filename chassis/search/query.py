"""What somebody typed into a search, and how well a record fits it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from crm.type.v1 import options_pb2

from chassis.search.texts import Text
from chassis.search.words import fold, words

_PHONE: Final = re.compile(r"[+(]?[\d\s().+/-]{4,}")
_NOT_DIGIT: Final = re.compile(r"\D+")
# The index is asked for so many words, the longest; a record is compared with all of them.
_ASKED: Final = 4
_WORDS: Final = options_pb2.SEARCHED_WORDS

# What a word may have been meant as, and by how many errors.
Meant = Mapping[str, Mapping[str, int]]


class Fit(NamedTuple):
    """How well a record fits, up to 1, and by which of its texts."""

    score: float
    text: Text


@dataclass(frozen=True)
class Query:
    """A query: ``text`` folded, its ``words``, and the beginnings of whole texts and numbers it may stand for."""

    text: str
    words: tuple[str, ...]
    wholes: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Query:
        """The query that a text is."""
        folded = fold(text)
        wholes = dict.fromkeys([folded] if folded else [])
        if _PHONE.fullmatch(folded):
            digits = _NOT_DIGIT.sub("", folded)
            # Within a country one dials a zero that no international number has.
            wholes |= dict.fromkeys(each for each in (digits, digits.lstrip("0")) if len(each) > 2)
        return cls(folded, tuple(dict.fromkeys(words(text))), tuple(wholes))

    def readings(self) -> list[tuple[str, ...]]:
        """What the index can be asked for: beginnings of terms that a record must have, one way or another."""
        found = [self.asked_words()] if self.words else []
        found += [(each,) for each in self.wholes]
        return list(dict.fromkeys(found))

    def asked_words(self) -> tuple[str, ...]:
        """The words the index is asked for. Two letters begin half of all words: they are asked for only alone."""
        longest = sorted(self.words, key=len, reverse=True)[:_ASKED]
        return tuple(each for each in longest if len(each) > 2) or tuple(longest[:1])

    def fit(self, texts: Sequence[Text], meant: Meant) -> Fit | None:
        """How well a record with these texts fits; None where it does not."""
        best: Fit | None = None
        for text in texts:
            score = self._alone(text)
            if score and (best is None or score > best.score):
                best = Fit(score, text)
                if score == 1:
                    break
        return best or self._spread(texts, meant)

    def _alone(self, text: Text) -> float:
        """How well one text fits by itself; 0 where it does not."""
        has, words = text.forms, self.words
        if text.how != _WORDS:
            if any(form in self.wholes for form in has):
                return 1.0
            return 0.88 if any(form.startswith(self.wholes) for form in has) else 0.0
        if not words:
            return 0.0
        less = 0.0 if text.is_title else 0.05
        if has == words:
            return 1.0 - 2 * less
        last = len(words) - 1
        if len(has) > last and has[:last] == words[:last] and has[last].startswith(words[last]):
            return 0.9 - less
        if all(word in has for word in words):
            return 0.8 - less
        return 0.7 - less if all(any(each.startswith(word) for each in has) for word in words) else 0.0

    def _spread(self, texts: Sequence[Text], meant: Meant) -> Fit | None:
        """How well the texts fit together: each word stands in one of them, as it is or as it was meant."""
        errors, fits = 0, []
        for word in self.words:
            found = [
                (meant.get(word, {}).get(form, 0), text)
                for text in texts
                for form in text.forms
                if form.startswith(word) or form in meant.get(word, ())
            ]
            if not found:
                return None
            fewest, text = min(found, key=lambda it: it[0])
            errors += fewest
            fits.append(text)
        if not fits:
            return None
        best = max(fits, key=lambda it: (it.is_title, -fits.index(it)))
        return Fit(max(0.1, 0.5 - 0.05 * errors) if errors else 0.6, best)
