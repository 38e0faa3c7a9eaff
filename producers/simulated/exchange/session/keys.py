"""API keys of the simulated exchange: account, permissions, and check of signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key


@dataclass(frozen=True)
class ApiKey:
    """A key and its permissions.

    Attributes:
        key: Sent with every request. secret: of HMAC-SHA256; public_key: PEM of Ed25519; one of the two.
        trade, withdraw, ip_restricted, transfer: Permissions as published by the venue.
    """

    key: str
    account: str
    secret: str = field(default="", repr=False)
    public_key: str = ""
    trade: bool = True
    withdraw: bool = False
    ip_restricted: bool = True
    transfer: bool = False

    def __post_init__(self) -> None:
        if not self.key or bool(self.secret) == bool(self.public_key):
            raise ValueError(f"key {self.key!r}: expected a key with either secret or public_key")
        if self.public_key:
            self._verifier()

    def _verifier(self) -> Ed25519PublicKey:
        try:
            found = load_pem_public_key(self.public_key.encode())
        except ValueError as error:
            raise ValueError(f"key {self.key!r}: public_key: {error}") from error
        if not isinstance(found, Ed25519PublicKey):
            raise ValueError(f"key {self.key!r}: public_key: expected an Ed25519 key in PEM")
        return found

    def signed(self, payload: bytes, signature: str) -> bool:
        """Return whether a signature (hexadecimal of HMAC, base64 of Ed25519) of a payload is this key's."""
        if self.secret:
            expected = hmac.new(self.secret.encode(), payload, hashlib.sha256).hexdigest()
            return hmac.compare_digest(expected.encode(), signature.lower().encode())
        try:
            self._verifier().verify(base64.b64decode(signature, validate=True), payload)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class AccountSpec:
    """The user's description of an account.

    Attributes:
        deposit: Deposit at the start, quote units. leverage: First leverage of every instrument. maker, taker: Fees as shares. dual: Hedge
        mode. isolated: Every instrument starts with isolated margin.
    """

    name: str
    deposit: Decimal = Decimal("10000")
    leverage: int = 20
    maker: Decimal = Decimal("0.0002")
    taker: Decimal = Decimal("0.0005")
    dual: bool = False
    keys: tuple[ApiKey, ...] = ()


def read_accounts(path: str | Path) -> list[AccountSpec]:
    """Read accounts and their keys of a TOML file.

    Raises:
        ValueError: it is invalid; the message names file, account and field. FileNotFoundError: it does not exist.
    """
    try:
        body = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        rows = body["accounts"]
        if not isinstance(rows, list) or not rows or set(body) != {"accounts"}:
            raise ValueError("expected [[accounts]] and nothing else")
        return [_account(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _account(row: Mapping[str, Any]) -> AccountSpec:
    name = row.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("accounts: name: expected text")
    known = {"name": str, "deposit": Decimal, "leverage": int, "maker": Decimal, "taker": Decimal, "dual": bool, "keys": list}
    values: dict[str, Any] = {}
    for field_name, value in row.items():
        kind = known.get(field_name)
        if kind is None:
            raise ValueError(f"account {name}: {field_name}: unknown")
        if kind is Decimal:
            try:
                values[field_name] = Decimal(value)
            except (InvalidOperation, TypeError) as error:
                raise ValueError(f"account {name}: {field_name}: expected a decimal as text, got {value!r}") from error
        elif type(value) is not kind:
            raise ValueError(f"account {name}: {field_name}: expected {kind.__name__}, got {value!r}")
        else:
            values[field_name] = value
    keys = []
    for entry in values.pop("keys", []):
        unknown = set(entry) - {"key", "secret", "public_key", "trade", "withdraw", "ip_restricted", "transfer"}
        if unknown:
            raise ValueError(f"account {name}: keys: unknown {', '.join(sorted(unknown))}")
        keys.append(ApiKey(account=name, **entry))
    return AccountSpec(**values, keys=tuple(keys))
