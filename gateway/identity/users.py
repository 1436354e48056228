"""Users: the people who work with Rapport."""

from __future__ import annotations

from collections.abc import Iterator

from crm.gateway.v1 import user_pb2 as pb
from email_validator import EmailNotValidError, validate_email

from chassis.checks import check_time_zone
from chassis.errors import invalid
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
            raise invalid("email", "it is no e-mail address, such as 'ana@acme.example'") from None


async def prepare(work: Work, user: pb.User, before: pb.User | None) -> None:
    """Checks what needs more than the contract's rules."""
    if user.time_zone:
        check_time_zone(user.time_zone)


def keys(user: pb.User) -> Iterator[Key]:
    """An e-mail address finds its user again, but two may share one."""
    if user.email:
        yield Key("e-mail", user.email.lower())


class Users(Service, serves="crm.gateway.v1.UserService"):
    """Users by their standard methods."""

    resource = Resource(pb.User, tables.users, normalize=normalize, prepare=prepare, keys=keys)
