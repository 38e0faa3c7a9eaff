"""Signatures of Binance requests (developers documentation, "Endpoint security type"): HMAC-SHA256 or Ed25519."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_PEM = "-----BEGIN"


class KeyFormatError(ValueError):
    """A secret is neither an HMAC secret nor an Ed25519 private key. The message contains no part of it."""


def signer(secret: str) -> Callable[[str], str]:
    """Return the function that signs a query string.

    Args:
        secret: The HMAC secret, or an Ed25519 private key in PEM (PKCS 8, without a passphrase).

    Raises:
        KeyFormatError: it is neither.
    """
    if not secret.startswith(_PEM):
        key = secret.encode()
        return lambda query: hmac.new(key, query.encode(), hashlib.sha256).hexdigest()
    try:
        private = load_pem_private_key(secret.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise KeyFormatError(f"the API secret looks like a PEM file that cannot be read ({type(error).__name__})") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFormatError(f"the API secret is a {type(private).__name__}; Binance signatures here are HMAC or Ed25519")
    return lambda query: base64.b64encode(private.sign(query.encode())).decode()
