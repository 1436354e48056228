"""Invented names. Every address ends in `.example`, which nobody can own (RFC 2606)."""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass


def _words(text: str) -> list[str]:
    return text.split()


GIVEN = _words(
    "Ada Aiko Amara Ana Anders Anouk Bruno Carmen Chidi Clara Dalia Dário Elif Emil Esther Fatima Felix Freja "
    "Gabriel Giulia Hana Hugo Ines Ivan Jonas Joana Kaito Karim Lena Leo Lívia Luca Maja Malik Marta Mateo "
    "Mila Nadia Nils Noor Olga Omar Paula Pavel Priya Rafael Rosa Samir Sofia Tariq Tove Uma Viktor Wanda "
    "Yara Zoë"
)
FAMILY = _words(
    "Abebe Almeida Andersen Bakker Banerjee Bauer Castro Costa Dahl Diallo Duarte Eriksen Farah Fischer "
    "Fontaine García Haddad Hansen Horvat Ito Jansen Kaya Keller Kowalski Lindgren Lopes Marino Mensah Moreau "
    "Nakamura Novak Okafor Oliveira Park Petrov Rossi Sato Schmidt Silva Sørensen Tanaka Vargas Visser Weber "
    "Yilmaz Zhang"
)
FIRST_WORD = _words(
    "North Blue Green Silver Bright Urban Alpine Coastal Golden Quiet Swift Solid Open River Maple Stone"
)
SECOND_WORD = _words(
    "Harbor Field Works Bakery Logistics Studio Clinic Foods Textiles Energy Motors Books Garden Print"
)
INDUSTRIES = _words("retail manufacturing logistics health food energy education services")


@dataclass(frozen=True)
class Person:
    """A person with an address."""

    given_name: str
    family_name: str
    email: str


@dataclass(frozen=True)
class Firm:
    """A company with its domain."""

    name: str
    domain: str
    industry: str


def firms(count: int, chance: random.Random) -> list[Firm]:
    """So many companies, each with a name of its own."""
    names = [f"{first} {second}" for first in FIRST_WORD for second in SECOND_WORD]
    return [
        Firm(name, f"{name.lower().replace(' ', '-')}.example", chance.choice(INDUSTRIES))
        for name in chance.sample(names, count)
    ]


def people(count: int, domains: list[str], chance: random.Random) -> list[Person]:
    """So many people, no two of one name, spread over the domains."""
    pairs = [(given, family) for given in GIVEN for family in FAMILY]
    return [
        Person(given, family, f"{_plain(given)}.{_plain(family)}@{domains[index % len(domains)]}")
        for index, (given, family) in enumerate(chance.sample(pairs, count))
    ]


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKD", name.lower().replace("ø", "o").replace("ı", "i"))
    return "".join(letter for letter in folded if letter.isascii() and letter.isalpha())
