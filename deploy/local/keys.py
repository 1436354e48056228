"""The keys of one stack: who signs calls between processes, who may call whom, the demo tenant's API key."""

import json
import secrets
from collections.abc import Iterable, Mapping

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.local.state import State, write_private


def make(state: State, may_call: Mapping[str, Iterable[str]]) -> None:
    """Make what is missing; keys that exist are kept. `may_call` has one entry for each kind of process."""
    trust = {}
    for kind, callees in may_call.items():
        trust[kind] = {"public_key": _signing_key(state, kind), "may_call": sorted(callees)}
    write_private(state.key("trust.json"), json.dumps(trust, indent=1))
    fresh = {
        "token.key": secrets.token_hex(32),
        "api-key": f"rap_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}",
    }
    for name, secret in fresh.items():
        if not state.key(name).exists():
            write_private(state.key(name), secret)


def _signing_key(state: State, kind: str) -> str:
    """Make the private key of a kind of process unless it exists; its public key as PEM."""
    file = state.key(f"{kind}.pem")
    if file.exists():
        private = serialization.load_pem_private_key(file.read_bytes(), password=None)
    else:
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(file, pem.decode())
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
