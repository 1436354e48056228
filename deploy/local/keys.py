"""The keys of one stack: who signs calls between processes, who may call whom, the demo tenant's API key."""

import json
import secrets
import time
from collections.abc import Iterable, Mapping

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from deploy.local.state import State, write_private


def make(state: State, may_call: Mapping[str, Iterable[str]]) -> None:
    """Make what is missing; keys that exist are kept. `may_call` has one entry for each kind of process."""
    trust = {}
    for kind, callees in may_call.items():
        trust[kind] = {"public_keys": [_signing_key(state, kind)], "may_call": sorted(callees)}
    write_private(state.key("trust.json"), json.dumps(trust, indent=1))
    fresh = {
        "token.key": secrets.token_hex(32),
        "api-key": f"rap_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}",
    }
    for name, secret in fresh.items():
        if not state.key(name).exists():
            write_private(state.key(name), secret)


def rotate(state: State, kinds: Iterable[str], *, settle_s: float, life_s: float) -> None:
    """Give kinds of process new keys while the stack runs, without a refused call.

    The new public keys are trusted beside the old ones for `settle_s` seconds before anything is signed with them,
    and the old ones for `life_s` more: the tokens that they signed die out meanwhile.
    """
    file = state.key("trust.json")
    trust = json.loads(file.read_text())
    fresh = {kind: Ed25519PrivateKey.generate() for kind in kinds}
    for kind, private in fresh.items():
        trust[kind]["public_keys"].append(_public(private))
    write_private(file, json.dumps(trust, indent=1))
    time.sleep(settle_s)
    for kind, private in fresh.items():
        write_private(state.key(f"{kind}.pem"), _private(private))
    time.sleep(settle_s + life_s)
    for kind, private in fresh.items():
        trust[kind]["public_keys"] = [_public(private)]
    write_private(file, json.dumps(trust, indent=1))


def _signing_key(state: State, kind: str) -> str:
    """Make the private key of a kind of process unless it exists; its public key as PEM."""
    file = state.key(f"{kind}.pem")
    if file.exists():
        return _public(serialization.load_pem_private_key(file.read_bytes(), password=None))
    private = Ed25519PrivateKey.generate()
    write_private(file, _private(private))
    return _public(private)


def _private(key: Ed25519PrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def _public(key: PrivateKeyTypes) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form).decode()
