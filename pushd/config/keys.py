"""What authenticators read from files and settings: the keys of JSON Web Tokens, and the list of static tokens.

Each algorithm has its own key, so that none can serve another.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pushd.config.sections import HmacAuth
from pushd.model import DEVICE_ID

TOKEN_BYTES = 4096  # a token may stand in a request's head, which has its own bound
SECRET_BYTES = 32  # RFC 7518 section 3.2: a key of the size of the hash output, or larger


@dataclasses.dataclass(frozen=True, slots=True)
class VerificationKeys:
    """The key of each accepted algorithm, and as (setting, what is wrong) the ones that are missing or unfit."""

    keys: Mapping[str, Any]
    problems: tuple[tuple[str, str], ...]


def verification_keys(auth: HmacAuth) -> VerificationKeys:
    """Reads the keys that the settings name. Never raises for a wrong setting: the answer has the problems."""
    keys: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for algorithm in auth.algorithms:
        name = "secret" if algorithm == "HS256" else "public_key"
        try:
            keys[algorithm] = _secret(auth) if algorithm == "HS256" else _public_key(auth, algorithm)
        except ValueError as error:
            problems.append((name, str(error)))
    return VerificationKeys(keys, tuple(problems))


def _secret(auth: HmacAuth) -> bytes:
    secret = auth.secret.get_secret_value().encode()
    if not secret:
        raise ValueError("is required with the algorithm HS256")
    if len(secret) < SECRET_BYTES:
        raise ValueError(
            f"has {len(secret)} bytes; HS256 needs at least {SECRET_BYTES}, such as from: openssl rand -hex 32"
        )
    return secret


def _public_key(auth: HmacAuth, algorithm: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if not auth.public_key:
        raise ValueError(f"is required with the algorithm {algorithm}")
    try:
        key = load_pem_public_key(Path(auth.public_key).read_bytes())
    except OSError as error:
        raise ValueError(f"{auth.public_key} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{auth.public_key} is not a public key in PEM form") from error
    if not isinstance(key, rsa.RSAPublicKey if algorithm == "RS256" else ed25519.Ed25519PublicKey):
        raise ValueError(f"{auth.public_key} is not a key for {algorithm}")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        raise ValueError(f"{auth.public_key} has {key.key_size} bits; RS256 needs at least 2048")
    return key


def read_tokens(file: Path) -> dict[str, bytes]:
    """The token of each device in a file of `"device" = "token"` lines (TOML).

    Raises OSError if the file cannot be read, ValueError saying which device's line is wrong and why.
    """
    table = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    for device, token in table.items():
        if not DEVICE_ID.fullmatch(device):
            raise ValueError(f'"{device}" is not a device id: 1 to 128 letters, digits, . _ ~ @ -')
        if not isinstance(token, str) or not 1 <= len(token.encode()) <= TOKEN_BYTES:
            raise ValueError(f'the token of "{device}" must be a string of 1 to {TOKEN_BYTES} bytes')
    return {device: token.encode() for device, token in table.items()}
