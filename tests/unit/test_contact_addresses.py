"""E-mail addresses: what is decided without the library is what the library says."""

import random

import pytest
from email_validator import EmailNotValidError, validate_email

from chassis.errors import Invalid
from services.contacts.reach import email_address

_DOMAINS = ("example.com", "Example.COM", "x.test", "localhost", "a-.com", "", "a..b", "[1.2.3.4]", "a b.com", "x.com.")
_WIDE = ("münchen.example", "xn--mnchen-3ya.example", f"{'a' * 64}.com", f"{'a.' * 100}com")


def test_an_address_is_kept_or_refused_as_the_library_would() -> None:
    chance = random.Random(7)
    kept = 0
    for _ in range(3_000):
        local = "".join(chance.choice("abz09_+-.Xé@") for _ in range(chance.choice((0, 1, 2, 5, 64, 65))))
        text = local + chance.choice(("@", "@", "@@", "")) + chance.choice(_DOMAINS + _WIDE)
        try:
            expected = validate_email(text, check_deliverability=False, allow_smtputf8=True).normalized
        except EmailNotValidError:
            with pytest.raises(Invalid):
                email_address(text, "address")
        else:
            assert email_address(text, "address") == expected
            kept += 1
    assert kept
