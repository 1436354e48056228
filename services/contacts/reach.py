"""How a person or company is reached: e-mail addresses, telephone numbers and domains in the form they are kept in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import phonenumbers
from crm.contacts.v1 import reach_pb2
from email_validator import EmailNotValidError, validate_email

from chassis.errors import invalid
from chassis.keys import Key

_DOMAIN = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")


def normalize_reach(record: Any) -> None:
    """Brings the e-mail addresses and telephone numbers of a contact or company into their kept form.

    Raises Invalid that names the entry which is none.
    """
    for index, each in enumerate(record.emails):
        each.address = email_address(each.address, f"emails[{index}].address")
    for index, each in enumerate(record.phones):
        each.number = phone_number(each, f"phones[{index}].number")


@lru_cache(maxsize=4096)
def email_address(text: str, field: str) -> str:
    """An e-mail address with its domain in lower case. Raises Invalid, naming ``field``, where it is none."""
    try:
        local, _, domain = text.rpartition("@")
        if len(text) < _MOST_PLAIN and domain.isascii() and _PLAIN_LOCAL.fullmatch(local):
            return f"{local}@{_mail_domain(domain)}"
        return _validated(text)
    except EmailNotValidError as error:
        raise invalid(field, "it is no e-mail address, such as 'ana@acme.example'") from error


# Before the @ most addresses are like this, which is as it should be and what is kept; and domains repeat. Asking for
# each address anew was a fifth of an import.
_PLAIN_LOCAL = re.compile(r"(?=.{1,64}$)[a-z0-9_+-]+(\.[a-z0-9_+-]+)*")
_MOST_PLAIN = 200


@lru_cache(maxsize=4096)
def _mail_domain(domain: str) -> str:
    return _validated(f"a@{domain}").removeprefix("a@")


def _validated(text: str) -> str:
    # Whether mail arrives there is not asked: that would wait for the internet's name servers.
    return validate_email(text, check_deliverability=False, allow_smtputf8=True).normalized


def phone_number(phone: reach_pb2.PhoneNumber, field: str) -> str:
    """A telephone number in E.164 (ITU-T). Raises Invalid, naming ``field``, where it is none."""
    return e164(phone.number, phone.region or None, field)


@lru_cache(maxsize=4096)
def e164(text: str, region: str | None, field: str) -> str:
    """A number in E.164, read by the numbering plan of ``region`` where it has no country code."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException as error:
        hint = "" if region else "; without a country code it needs a region"
        raise invalid(field, f"it is no telephone number, such as '+5511987654321'{hint}") from error
    if not phonenumbers.is_possible_number(number):
        raise invalid(field, "no telephone number has so many digits there")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def email_keys(emails: Iterable[reach_pb2.EmailAddress]) -> list[Key]:
    """The keys by which e-mail addresses find a record. Families and info@ addresses share: they never forbid."""
    return [Key("email", each.address.casefold()) for each in emails]


def domain_name(text: str, field: str) -> str:
    """An internet domain in lower case and ASCII. Raises Invalid, naming ``field``, where it is none."""
    name = text.strip().lower().rstrip(".")
    try:
        name = name.encode("idna").decode()
    except UnicodeError as error:
        raise invalid(field, "it is no domain, such as 'acme.example'") from error
    if not _DOMAIN.fullmatch(name):
        raise invalid(field, "it is no domain, such as 'acme.example'")
    return name
