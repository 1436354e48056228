"""How a lead is reached: e-mail address, telephone number and domain in the form they are kept in."""

from __future__ import annotations

import re
from functools import lru_cache

import phonenumbers
from email_validator import EmailNotValidError, validate_email

from chassis.errors import invalid

_DOMAIN = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")


@lru_cache(maxsize=4096)
def email_address(text: str) -> str:
    """An e-mail address with its domain in lower case. Raises Invalid where it is none."""
    try:
        # Whether mail arrives there is not asked: that would wait for the internet's name servers.
        return validate_email(text, check_deliverability=False, allow_smtputf8=True).normalized
    except EmailNotValidError as error:
        raise invalid("email", "it is no e-mail address, such as 'ana@acme.example'") from error


def complete_number(text: str) -> str:
    """A telephone number in E.164 (ITU-T) where it is complete; empty for any other text."""
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return ""
    if not phonenumbers.is_possible_number(number):
        return ""
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def domain_name(text: str) -> str:
    """An internet domain in lower case and ASCII. Raises Invalid where it is none."""
    name = text.strip().lower().rstrip(".")
    try:
        name = name.encode("idna").decode()
    except UnicodeError as error:
        raise invalid("company_domain", "it is no domain, such as 'acme.example'") from error
    if not _DOMAIN.fullmatch(name):
        raise invalid("company_domain", "it is no domain, such as 'acme.example'")
    return name
