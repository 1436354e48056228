"""Users: the people who work with Rapport."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo

from crm.gateway.v1 import user_pb2 as pb
from email_validator import EmailNotValidError, validate_email

from chassis.errors import Invalid, Reason
from chassis.keys import Key
from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from gateway.identity import tables


def normalize(user: pb.User) -> None:
    """Brings the e-mail address into the form it is kept in. Raises Invalid for one that is none."""
    if user.email:
        try:
            user.email = validate_email(user.email.strip(), check_deliverability=False).normalized
        except EmailNotValidError:
            raise _invalid("user.email", "is no e-mail address") from None


async def prepare(work: Work, user: pb.User, before: pb.User | None) -> None:
    """Checks what needs more than the contract's rules."""
    if user.time_zone:
        try:
            ZoneInfo(user.time_zone)
        except (ValueError, OSError, LookupError):
            raise _invalid("user.time_zone", "is no IANA time zone, such as 'Europe/Berlin'") from None


def keys(user: pb.User) -> Iterator[Key]:
    """An e-mail address finds its user again, but two may share one."""
    if user.email:
        yield Key("e-mail", user.email.lower())


class Users(Service, serves="crm.gateway.v1.UserService"):
    """Users by their standard methods."""

    resource = Resource(pb.User, tables.users, normalize=normalize, prepare=prepare, keys=keys)


def _invalid(place: str, what: str) -> Invalid:
    return Invalid(Reason.REASON_FIELD_INVALID, f"{place}: {what}", violations=[(place, what)])
