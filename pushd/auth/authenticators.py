"""The authenticators, and the making of tokens.

Every authenticator answers with an Identity, or raises AuthRejected (it knows, and the answer is no) or AuthUnavailable
(it could not find out). The difference is never blurred: a service that is down must not look like a wrong password.
"""

import hashlib
import hmac
import importlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import jwt

from pushd.auth.identity import checked_identity, parse_identity
from pushd.config import Config
from pushd.config.keys import TOKEN_BYTES, read_tokens, verification_keys
from pushd.config.sections import CustomAuth, HmacAuth
from pushd.errors import AuthRejected, AuthUnavailable, BadRequest, ConfigError, StoreUnavailable
from pushd.model import DEVICE_ID, Identity
from pushd.store.base import Store

HASHED = "sha256:"  # before the hash of a token

logger = logging.getLogger("pushd")


class Authenticator(Protocol):
    """Decides who a device is."""

    async def authenticate(self, device: str | None, token: str | None) -> Identity:
        """The identity that these credentials prove.

        `device` is the id that the client claims (None: it left that to the token), `token` its proof. Raises
        AuthRejected with a text for the client's developer, or AuthUnavailable. May be cancelled at any checkpoint.
        """


@asynccontextmanager
async def open_authenticator(config: Config, store: Store | None = None) -> AsyncIterator[Authenticator]:
    """The authenticator that the configuration names, checked on both sides, for as long as the block lasts.

    `store` is what kind `store` asks; without one it answers AuthUnavailable.
    Raises ConfigError if it cannot be made: a file or class that is not there, a key that does not fit.
    """
    auth = config.auth
    async with AsyncExitStack() as stack:
        inner: Authenticator
        match auth.kind:
            case "open":
                inner = OpenAuthenticator()
            case "static":
                inner = StaticAuthenticator(Path(auth.static.file))
            case "hmac":
                inner = HmacAuthenticator(auth.hmac)
            case "http":
                from pushd.auth.http import HttpAuthenticator  # httpx takes long to import, and only this kind needs it

                inner = await stack.enter_async_context(HttpAuthenticator(auth.http))
            case "custom":
                made = _custom(auth.custom)
                inner = await stack.enter_async_context(made) if hasattr(made, "__aenter__") else made
            case "store":
                inner = StoreAuthenticator(store)
        yield CheckedAuthenticator(inner)


class CheckedAuthenticator:
    """Stands around any authenticator: refuses what no authenticator should see, and believes no impossible answer."""

    def __init__(self, inner: Authenticator) -> None:
        self.inner = inner

    async def authenticate(self, device: str | None, token: str | None) -> Identity:
        """As the inner one; a failure of its code is logged and becomes AuthUnavailable."""
        if device is not None and not DEVICE_ID.fullmatch(device):
            raise AuthRejected("deviceId must be 1 to 128 letters, digits, . _ ~ @ -")
        if token is not None and len(token.encode("utf-8", "surrogatepass")) > TOKEN_BYTES:
            raise AuthRejected(f"the token is longer than {TOKEN_BYTES} bytes")
        try:
            identity = await self.inner.authenticate(device, token)
            checked_identity(identity)
        except (AuthRejected, AuthUnavailable):
            raise
        except Exception as error:  # the boundary to code that is not ours: one failure is one failed login
            logger.exception("the authenticator %s failed", type(self.inner).__name__)
            raise AuthUnavailable("the authenticator failed; the daemon's log has the reason") from error
        if device is not None and identity.device != device:
            raise AuthRejected("these credentials belong to another device")
        return identity


class OpenAuthenticator:
    """Believes every device. For development, and for networks where something else has decided already."""

    async def authenticate(self, device: str | None, token: str | None) -> Identity:
        """The device as it calls itself; AuthRejected if it does not."""
        if device is None:
            raise AuthRejected("deviceId is required")
        return Identity(device)


class StaticAuthenticator:
    """Tokens in a TOML file of `"device" = "token"` lines, read again when the file changes.

    A file that has become unreadable changes nothing: the tokens stay as they were, and the log says why.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = self._look()
        try:
            self._tokens = read_tokens(file)
        except (OSError, ValueError) as error:
            raise ConfigError([f"auth.static.file: {file}: {error}"]) from error

    async def authenticate(self, device: str | None, token: str | None) -> Identity:
        """The device, if its line has this token."""
        if self._look() != self._stamp:
            self.reload()
        if device is None or token is None:
            raise AuthRejected("deviceId and token are required")
        expected = self._tokens.get(device)
        given = token.encode("utf-8", "surrogatepass")
        # An unknown device is compared too, with what cannot match, so that time does not tell which ids exist.
        if not hmac.compare_digest(given, expected or b"\0") or expected is None:
            raise AuthRejected("unknown device or wrong token")
        return Identity(device)

    def reload(self) -> None:
        """Read the file now. Blocks for one small local file."""
        self._stamp = self._look()
        try:
            self._tokens = read_tokens(self._file)
        except (OSError, ValueError) as error:
            logger.error("%s: %s; the tokens stay as they were", self._file, error)
        else:
            logger.info("%s: %d tokens", self._file, len(self._tokens))

    def _look(self) -> tuple[int, int, int] | None:
        """What changes when the file does; None when it is gone."""
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


class StoreAuthenticator:
    """The store's table of legal devices, which services maintain: each with a token, its hash, or none."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    async def authenticate(self, device: str | None, token: str | None) -> Identity:
        """The device, if it is legal and its token is this one."""
        if device is None:
            raise AuthRejected("deviceId is required")
        if self._store is None:
            raise AuthUnavailable("there is no store to ask")
        try:
            expected = await self._store.token_of(device)
        except StoreUnavailable as error:
            raise AuthUnavailable(f"the store is away: {error}") from error
        given = (token or "").encode("utf-8", "surrogatepass")
        if expected is not None and expected.startswith(HASHED):
            given = hash_token(given).encode()
        # An unknown device is compared too, so that time does not tell which ids exist.
        same = hmac.compare_digest(given, (expected or "").encode())
        if expected is None or (expected and not same):
            raise AuthRejected("unknown device or wrong token")
        return Identity(device)


def hash_token(token: bytes) -> str:
    """A token as the store should have it: who reads it there cannot come in with it."""
    return HASHED + hashlib.sha256(token).hexdigest()


class HmacAuthenticator:
    """JSON Web Tokens: the device, its topics and the expiry are claims that the signature protects."""

    def __init__(self, settings: HmacAuth) -> None:
        found = verification_keys(settings)
        if found.problems:
            raise ConfigError([f"auth.hmac.{name}: {problem}" for name, problem in found.problems])
        self._settings = settings
        self._keys = found.keys

    async def authenticate(self, device: str | None, token: str | None) -> Identity:
        """The device that the token names."""
        if token is None:
            raise AuthRejected("a token is required")
        claims = self._claims(token)
        name = claims.get(self._settings.device_claim)
        if device is not None and name != device:
            raise AuthRejected("the token belongs to another device")
        try:
            return parse_identity(
                name,
                claims.get(self._settings.topics_claim),
                self._expiry(claims),
                claims.get(self._settings.confirm_claim),
            )
        except (ValueError, OverflowError) as error:
            raise AuthRejected(f"the token is not usable: {error}") from error

    def _claims(self, token: str) -> Mapping[str, Any]:
        """The claims of a token whose signature, times, audience and issuer are right."""
        settings = self._settings
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
            if not isinstance(algorithm, str) or algorithm not in self._keys:  # `none` is never among them
                raise AuthRejected(f"the token's algorithm is not accepted here; accepted: {', '.join(self._keys)}")
            claims: Mapping[str, Any] = jwt.decode(
                token,
                self._keys[algorithm],
                algorithms=[algorithm],
                leeway=settings.leeway,
                audience=settings.audience or None,
                issuer=settings.issuer or None,
                options={"verify_aud": bool(settings.audience), "verify_iss": bool(settings.issuer)},
            )
        except jwt.ExpiredSignatureError as error:
            raise AuthRejected("the token has expired") from error
        except jwt.ImmatureSignatureError as error:
            raise AuthRejected("the token is not valid yet") from error
        # The three beside jwt's own are what hostile JSON has drawn out of JSON and number parsers.
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise AuthRejected("the token is not valid") from error
        return claims

    def _expiry(self, claims: Mapping[str, Any]) -> Any:
        """When to stop believing: as late as a new login with this token would still succeed."""
        expires = claims.get("exp")
        return None if expires is None else int(expires) + self._settings.leeway


def make_token(config: Config, device: str, topics: Sequence[str] = (), ttl: float | None = None) -> str:
    """A token for a device, signed with `auth.hmac.secret`, valid for `ttl` seconds (None: for ever).

    Raises BadRequest for an impossible device or topic, ConfigError when the configuration cannot sign HS256.
    """
    settings = config.auth.hmac
    if "HS256" not in settings.algorithms:
        raise ConfigError(["auth.hmac.algorithms: tokens are made with HS256, which is not among them"])
    found = verification_keys(settings.model_copy(update={"algorithms": ("HS256",)}))
    if found.problems:
        raise ConfigError([f"auth.hmac.{name}: {problem}" for name, problem in found.problems])
    try:
        parse_identity(device, list(topics), None, None)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    now = int(time.time())
    claims: dict[str, Any] = {settings.device_claim: device, "iat": now}
    if topics:
        claims[settings.topics_claim] = list(topics)
    if ttl is not None:
        claims["exp"] = now + round(ttl)
    claims |= {name: value for name, value in (("aud", settings.audience), ("iss", settings.issuer)) if value}
    return jwt.encode(claims, found.keys["HS256"], algorithm="HS256")


def _custom(settings: CustomAuth) -> Any:
    """An instance of the class that the configuration names."""
    module, _, name = settings.factory.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)(**settings.options)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError([f"auth.custom.factory: {settings.factory} cannot be made: {error}"]) from error
    if not callable(getattr(made, "authenticate", None)):
        raise ConfigError([f"auth.custom.factory: {settings.factory} has no `async def authenticate(device, token)`"])
    return made
