"""A process that could not keep the contract does not start, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from chassis.ledger import Ledger
from chassis.run import Application, platform_of
from chassis.service import Platform, Server, Service, StartupError
from chassis.settings import Settings
from services.contacts.__main__ import application as contacts
from services.contacts.contacts import Contacts
from services.sales.__main__ import application as sales


def platform(application: Application, directory: Path) -> Platform:
    """What the services stand on; its database is not asked for anything."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "key.pem").write_bytes(pem)
    (directory / "trust.json").write_text("{}")
    (directory / "token.key").write_text("0" * 64)
    settings = Settings(
        database_url=SecretStr("postgresql://nobody@127.0.0.1:1/nothing"),
        signing_key_file=directory / "key.pem",
        trust_file=directory / "trust.json",
        token_key_file=directory / "token.key",
    )  # type: ignore[call-arg]
    return platform_of(application, settings)


def test_every_service_that_is_declared_must_be_served(tmp_path: Path) -> None:
    with pytest.raises(StartupError) as refused:
        Server(platform(contacts, tmp_path), [Contacts, Ledger])
    assert "crm.contacts.v1.CompanyService is declared but nothing serves it" in str(refused.value)
    assert "crm.contacts.v1.AffiliationService is declared but nothing serves it" in str(refused.value)


def test_every_method_that_is_declared_must_be_there(tmp_path: Path) -> None:
    class Empty(Service, serves="crm.sales.v1.DealService"):
        """Has no resource and so no standard method, and no verb either."""

    others = [each for each in sales.services if each.serves != Empty.serves]
    with pytest.raises(StartupError) as refused:
        Server(platform(sales, tmp_path), [*others, Empty, Ledger])
    assert "/crm.sales.v1.DealService/WinDeal has no method in Empty" in str(refused.value)
    assert "/crm.sales.v1.DealService/GetDeal has no method in Empty" in str(refused.value)
    assert "LeadService" not in str(refused.value)


def test_the_real_ones_start(tmp_path: Path) -> None:
    for application in (contacts, sales):
        server = Server(platform(application, tmp_path), [*application.services, Ledger])
        assert "crm.internal.v1.LedgerService" in server.services
