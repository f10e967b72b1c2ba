"""The authenticators, what a request says about itself, and the tokens that pushdctl makes (row H19)."""

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import jwt
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from pushd.auth import (
    Authenticator,
    credentials,
    credentials_from_auth,
    make_token,
    merge_credentials,
    open_authenticator,
)
from pushd.config import Config
from pushd.config.keys import TOKEN_BYTES
from pushd.errors import AuthRejected, AuthUnavailable, BadRequest, ConfigError
from pushd.model import Confirm, Identity
from tests.pushd.stores import sqlite_memory

SECRET = "0123456789abcdef0123456789abcdef"
NEVER = 4_102_444_800  # the year 2100


def config_of(kind: str, **settings: Any) -> Config:
    return Config.model_validate({"auth": {"kind": kind, kind: settings} if settings else {"kind": kind}})


async def rejection(authenticator: Authenticator, device: str | None, token: str | None) -> str:
    """The text of the AuthRejected that these credentials meet."""
    with pytest.raises(AuthRejected) as caught:
        await authenticator.authenticate(device, token)
    return str(caught.value)


# --- open -------------------------------------------------------------------------------------------------------------


async def test_open_believes_every_device_that_names_itself() -> None:
    async with open_authenticator(config_of("open")) as authenticator:
        assert await authenticator.authenticate("d-1", None) == Identity("d-1")
        assert await authenticator.authenticate("d-1", "whatever") == Identity("d-1")
        assert await rejection(authenticator, None, None) == "deviceId is required"


@pytest.mark.parametrize("device", ["", "a b", "a/b", "é", "a\n", "x" * 129, "a\0"])
async def test_an_impossible_device_id_is_refused_by_every_authenticator(device: str) -> None:
    async with open_authenticator(config_of("open")) as authenticator:
        assert (await rejection(authenticator, device, None)).startswith("deviceId must be")


# --- store ------------------------------------------------------------------------------------------------------------


async def test_store_knows_who_is_legal_and_by_which_token(tmp_path: Path) -> None:
    async with sqlite_memory(tmp_path).open() as store:
        await store.permit("plain", "apple")
        await store.permit("hashed", "sha256:3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b")  # apple
        await store.permit("free", "")
        async with open_authenticator(config_of("store"), store) as authenticator:
            for device in ("plain", "hashed", "free"):
                assert await authenticator.authenticate(device, "apple") == Identity(device)
            assert await authenticator.authenticate("free", None) == Identity("free")
            for device, token in (
                ("plain", "pear"),
                ("plain", None),
                ("hashed", "pear"),
                ("hashed", None),
                ("hashed", await store.token_of("hashed")),
                ("unknown", "apple"),
                ("unknown", None),
            ):
                assert await rejection(authenticator, device, token) == "unknown device or wrong token"
            assert await rejection(authenticator, None, "apple") == "deviceId is required"
            await store.permit("free", None)
            assert await rejection(authenticator, "free", None) == "unknown device or wrong token"
    async with open_authenticator(config_of("store"), store) as authenticator:
        with pytest.raises(AuthUnavailable, match="the store is away"):
            await authenticator.authenticate("plain", "apple")


# --- static -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens.toml"
    file.write_text('"d-1" = "apple"\n"d@2" = "pear"\n')
    return file


def rewrite(file: Path, text: str | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


async def test_static_wants_the_token_of_the_device(tokens: Path) -> None:
    async with open_authenticator(config_of("static", file=str(tokens))) as authenticator:
        assert await authenticator.authenticate("d-1", "apple") == Identity("d-1")
        assert await authenticator.authenticate("d@2", "pear") == Identity("d@2")
        for device, token in (("d-1", "pear"), ("d-1", ""), ("d-1", "appl\udce9"), ("d-3", "apple"), ("d-3", "\0")):
            assert await rejection(authenticator, device, token) == "unknown device or wrong token"
        for device, token in (("d-1", None), (None, "apple")):
            assert await rejection(authenticator, device, token) == "deviceId and token are required"


async def test_static_reads_a_changed_file_again(tokens: Path) -> None:
    async with open_authenticator(config_of("static", file=str(tokens))) as authenticator:
        rewrite(tokens, '"d-1" = "orange"\n')
        assert await authenticator.authenticate("d-1", "orange") == Identity("d-1")
        await rejection(authenticator, "d-1", "apple")
        await rejection(authenticator, "d@2", "pear")


async def test_static_keeps_its_tokens_when_the_file_breaks_and_says_so_once(
    tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_authenticator(config_of("static", file=str(tokens))) as authenticator:
        rewrite(tokens, '"d-1" = ')
        for _ in range(3):
            assert await authenticator.authenticate("d-1", "apple") == Identity("d-1")
        rewrite(tokens, None)
        assert await authenticator.authenticate("d-1", "apple") == Identity("d-1")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 2
    assert all("the tokens stay as they were" in line for line in said)


@pytest.mark.parametrize("content", ['"a b" = "x"', '"a" = 5', '"a" = ""', f'"a" = "{"x" * (TOKEN_BYTES + 1)}"', "a"])
async def test_static_refuses_to_start_with_a_bad_file(tokens: Path, content: str) -> None:
    rewrite(tokens, content)
    with pytest.raises(ConfigError, match=r"auth\.static\.file"):
        async with open_authenticator(config_of("static", file=str(tokens))):
            raise AssertionError("it started")


# --- hmac -------------------------------------------------------------------------------------------------------------


def signed(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=header)


def forged(header: dict[str, Any], claims: bytes, key: bytes | None = None) -> str:
    """A token that no library would make: any header, any bytes as claims, HS256 over them or no signature."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = f"{part(json.dumps(header).encode())}.{part(claims)}"
    return f"{text}.{part(hmac.digest(key, text.encode(), hashlib.sha256)) if key is not None else ''}"


async def test_hmac_reads_device_topics_expiry_and_confirmation() -> None:
    settings = config_of("hmac", secret=SECRET, leeway=10.0)
    async with open_authenticator(settings) as authenticator:
        full = signed({"sub": "d-1", "topics": ["a", "b/c"], "exp": NEVER, "confirm": "write"})
        expected = Identity("d-1", ("a", "b/c"), NEVER + 10.0, Confirm.WRITE)
        assert await authenticator.authenticate("d-1", full) == expected
        assert await authenticator.authenticate(None, full) == expected
        assert await authenticator.authenticate(None, signed({"sub": "d-1"})) == Identity("d-1")


async def test_hmac_claims_have_the_names_of_the_settings() -> None:
    settings = config_of("hmac", secret=SECRET, device_claim="dev", topics_claim="groups", confirm_claim="c")
    async with open_authenticator(settings) as authenticator:
        token = signed({"dev": "d-1", "groups": ["a"], "c": "client", "sub": "other", "topics": 5})
        assert await authenticator.authenticate(None, token) == Identity("d-1", ("a",), None, Confirm.CLIENT)


NOT_VALID = "the token is not valid"
H19 = [
    ("no token", None, "a token is required"),
    ("not a token", "hello", NOT_VALID),
    ("empty parts", "..", NOT_VALID),
    ("not base64", "!.!.!", NOT_VALID),
    ("not ascii", "é.é.é", NOT_VALID),
    ("a lone surrogate", "\udce9.a.b", NOT_VALID),
    ("five parts", "a.b.c.d.e", NOT_VALID),
    ("wrong key", signed({"sub": "d-1"}, "x" * 32), NOT_VALID),
    ("no signature", signed({"sub": "d-1"}).rpartition(".")[0] + ".", NOT_VALID),
    ("changed claims", ".".join([signed({"sub": "d-1"}).split(".")[0], "eyJzdWIiOiJkLTIifQ", "AAAA"]), NOT_VALID),
    ("alg none", forged({"alg": "none", "typ": "JWT"}, b'{"sub":"d-1"}'), "algorithm is not accepted"),
    ("alg None, signed", forged({"alg": "None"}, b'{"sub":"d-1"}', SECRET.encode()), "algorithm is not accepted"),
    ("no alg", forged({"typ": "JWT"}, b'{"sub":"d-1"}', SECRET.encode()), "algorithm is not accepted"),
    ("alg a list", forged({"alg": ["HS256"]}, b'{"sub":"d-1"}', SECRET.encode()), "algorithm is not accepted"),
    ("alg not chosen", signed({"sub": "d-1"}, algorithm="HS512", key="x" * 64), "algorithm is not accepted"),
    ("expired", signed({"sub": "d-1", "exp": 1_000}), "the token has expired"),
    ("not yet", signed({"sub": "d-1", "nbf": NEVER}), "the token is not valid yet"),
    ("exp a word", forged({"alg": "HS256"}, b'{"sub":"d-1","exp":"x"}', SECRET.encode()), NOT_VALID),
    ("exp infinite", forged({"alg": "HS256"}, b'{"sub":"d-1","exp":1e999}', SECRET.encode()), NOT_VALID),
    ("exp huge", forged({"alg": "HS256"}, b'{"sub":"d-1","exp":1%s}' % (b"0" * 400), SECRET.encode()), "not usable"),
    ("claims a list", forged({"alg": "HS256"}, b"[]", SECRET.encode()), NOT_VALID),
    ("claims not JSON", forged({"alg": "HS256"}, b"{", SECRET.encode()), NOT_VALID),
    ("header nested deep", base64.urlsafe_b64encode(b"[" * 2_900).decode().rstrip("=") + ".e30.AAAA", NOT_VALID),
    ("claims nested deep", forged({"alg": "HS256"}, b"[" * 2_000, SECRET.encode()), NOT_VALID),
    ("unknown critical header", signed({"sub": "d-1"}, crit=["x"], x=1), NOT_VALID),
    ("other device", signed({"sub": "d-2"}), "the token belongs to another device"),
    ("no device", signed({}), "the token belongs to another device"),
    ("device a number", forged({"alg": "HS256"}, b'{"sub":1}', SECRET.encode()), NOT_VALID),
    ("topics a word", signed({"sub": "d-1", "topics": "a"}), "topics must be an array"),
    ("topic a number", signed({"sub": "d-1", "topics": [1]}), "a topic must be"),
    ("topic impossible", signed({"sub": "d-1", "topics": ["a b"]}), "a topic must be"),
    ("too many topics", signed({"sub": "d-1", "topics": ["a"] * 257}), "at most 256 topics"),
    ("confirm unknown", signed({"sub": "d-1", "confirm": "never"}), "not usable"),
    ("confirm a list", signed({"sub": "d-1", "confirm": []}), "not usable"),
    ("oversized", signed({"sub": "d-1", "pad": "x" * TOKEN_BYTES}), f"the token is longer than {TOKEN_BYTES} bytes"),
    ("oversized in bytes", "é" * (TOKEN_BYTES // 2 + 1), f"the token is longer than {TOKEN_BYTES} bytes"),
]


@pytest.mark.parametrize(("token", "expected"), [row[1:] for row in H19], ids=[row[0] for row in H19])
async def test_h19_a_bad_token_is_a_no(token: str | None, expected: str) -> None:
    """H19: whatever the token, the answer is AuthRejected; nothing else comes out, and no part of the token."""
    async with open_authenticator(config_of("hmac", secret=SECRET)) as authenticator:
        text = await rejection(authenticator, "d-1", token)
    assert expected in text
    assert token is None or len(token) < 5 or token not in text


async def test_h19_a_device_claim_that_is_no_device_id_is_a_no() -> None:
    async with open_authenticator(config_of("hmac", secret=SECRET)) as authenticator:
        for name in ("a b", "", "x" * 129):
            assert "device id must be" in await rejection(authenticator, None, signed({"sub": name}))
        assert "device id must be" in await rejection(authenticator, None, signed({}))


async def test_leeway_is_for_clocks_that_differ() -> None:
    token = signed({"sub": "d-1", "exp": time.time() - 100})
    async with open_authenticator(config_of("hmac", secret=SECRET, leeway=1000)) as authenticator:
        identity = await authenticator.authenticate(None, token)
    assert identity.expires is not None
    assert identity.expires > time.time()
    async with open_authenticator(config_of("hmac", secret=SECRET, leeway=10)) as authenticator:
        assert await rejection(authenticator, None, token) == "the token has expired"


async def test_audience_and_issuer_are_required_only_if_set() -> None:
    ours = signed({"sub": "d-1", "aud": "pushd", "iss": "us"})
    theirs = signed({"sub": "d-1", "aud": "shop", "iss": "us"})
    async with open_authenticator(config_of("hmac", secret=SECRET)) as authenticator:
        assert await authenticator.authenticate(None, theirs) == Identity("d-1")
    settings = config_of("hmac", secret=SECRET, audience="pushd", issuer="us")
    async with open_authenticator(settings) as authenticator:
        assert await authenticator.authenticate(None, ours) == Identity("d-1")
        for token in (theirs, signed({"sub": "d-1"}), signed({"sub": "d-1", "aud": "pushd", "iss": "them"})):
            assert await rejection(authenticator, None, token) == NOT_VALID


def write_public(key: Any, file: Path) -> bytes:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    file.write_bytes(pem)
    return pem


async def test_h19_each_algorithm_has_its_own_key(tmp_path: Path) -> None:
    """H19: the public key, which everybody may know, must not do as an HS256 secret (key confusion)."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = write_public(private, tmp_path / "rsa.pem")
    confused = forged({"alg": "HS256"}, b'{"sub":"d-1"}', pem)
    good = signed({"sub": "d-1"}, private, "RS256")
    only = config_of("hmac", algorithms=["RS256"], public_key=str(tmp_path / "rsa.pem"))
    async with open_authenticator(only) as authenticator:
        assert await authenticator.authenticate(None, good) == Identity("d-1")
        assert "algorithm is not accepted" in await rejection(authenticator, None, confused)
    both = config_of("hmac", algorithms=["RS256", "HS256"], public_key=str(tmp_path / "rsa.pem"), secret=SECRET)
    async with open_authenticator(both) as authenticator:
        assert await authenticator.authenticate(None, good) == Identity("d-1")
        assert await authenticator.authenticate(None, signed({"sub": "d-1"})) == Identity("d-1")
        assert await rejection(authenticator, None, confused) == NOT_VALID


async def test_eddsa(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    write_public(private, tmp_path / "ed.pem")
    settings = config_of("hmac", algorithms=["EdDSA"], public_key=str(tmp_path / "ed.pem"))
    async with open_authenticator(settings) as authenticator:
        assert await authenticator.authenticate("d-1", signed({"sub": "d-1"}, private, "EdDSA")) == Identity("d-1")
        stranger = ed25519.Ed25519PrivateKey.generate()
        assert await rejection(authenticator, "d-1", signed({"sub": "d-1"}, stranger, "EdDSA")) == NOT_VALID


async def test_hmac_without_a_key_cannot_be_made() -> None:
    with pytest.raises(ConfigError, match=r"auth\.hmac\.secret: is required"):
        async with open_authenticator(config_of("hmac")):
            raise AssertionError("it started")


# --- http -------------------------------------------------------------------------------------------------------------

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


@asynccontextmanager
async def auth_service(answer: Answer) -> AsyncIterator[str]:
    """A real HTTP service on loopback that answers each question; gives its URL."""

    async def serve_one(stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        status, content = answer(json.loads(body))
        head = h11.Response(
            status_code=status, headers=[("Content-Length", str(len(content))), ("Connection", "close")]
        )
        data = [connection.send(head), connection.send(h11.Data(content)), connection.send(h11.EndOfMessage())]
        await stream.send_all(b"".join(part for part in data if part))
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve_one, 0)
        yield f"http://127.0.0.1:{port_of(listeners[0])}/check"
        nursery.cancel_scope.cancel()


def port_of(listener: trio.SocketListener) -> int:
    return int(listener.socket.getsockname()[1])


async def test_http_asks_the_service_and_believes_its_yes() -> None:
    questions: list[dict[str, Any]] = []

    def answer(question: dict[str, Any]) -> tuple[int, bytes]:
        questions.append(question)
        if question["device"] is None:
            return 200, b'{"device": "d-9", "topics": ["a"], "expires": 4102444800.5, "confirm": "write"}'
        return 200, b"{}"

    async with auth_service(answer) as url, open_authenticator(config_of("http", url=url)) as authenticator:
        assert await authenticator.authenticate("d-1", "t") == Identity("d-1")
        expected = Identity("d-9", ("a",), 4102444800.5, Confirm.WRITE)
        assert await authenticator.authenticate(None, None) == expected
    assert questions == [{"device": "d-1", "token": "t"}, {"device": None, "token": None}]


@pytest.mark.parametrize("status", [401, 403])
async def test_http_no_is_a_no(status: int) -> None:
    async with (
        auth_service(lambda _: (status, b"")) as url,
        open_authenticator(config_of("http", url=url)) as authenticator,
    ):
        assert await rejection(authenticator, "d-1", "t") == "the authentication service says no"


async def test_http_yes_for_another_device_is_a_no() -> None:
    async with (
        auth_service(lambda _: (200, b'{"device": "d-2"}')) as url,
        open_authenticator(config_of("http", url=url)) as authenticator,
    ):
        assert await rejection(authenticator, "d-1", "t") == "these credentials belong to another device"


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (204, b"", "answered with status 204"),
        (302, b"", "answered with status 302"),
        (404, b"", "answered with status 404"),
        (429, b"", "answered with status 429"),
        (500, b"{}", "answered with status 500"),
        (503, b"", "answered with status 503"),
        (200, b"yes", "makes no sense"),
        (200, b"[]", "it is not an object"),
        (200, b'{"device": 5}', "the device id must be"),
        (200, b'{"topics": "a"}', "topics must be an array"),
        (200, b'{"expires": "soon"}', "the expiry must be a number"),
        (200, b'{"expires": NaN}', "the expiry is out of range"),
        (200, b'{"expires": true}', "the expiry must be a number"),
        (200, b'{"expires": 1%s}' % (b"0" * 400), "the expiry is out of range"),
        (200, b'{"confirm": "x"}', "makes no sense"),
        (200, b"[" * 60_000, "makes no sense"),
        (200, b'{"pad": "' + b"x" * 2_000_000 + b'"}', "more than 65536 bytes"),
    ],
)
async def test_http_everything_else_is_not_a_no(status: int, content: bytes, expected: str) -> None:
    """H19: a service in trouble must not look like a wrong password."""
    async with (
        auth_service(lambda _: (status, content)) as url,
        open_authenticator(config_of("http", url=url)) as authenticator,
    ):
        with pytest.raises(AuthUnavailable, match=expected):
            await authenticator.authenticate("d-1", "t")


async def test_http_a_service_that_is_not_there_is_not_a_no() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = port_of(listener)
    await listener.aclose()
    async with open_authenticator(config_of("http", url=f"http://u:swordfish@127.0.0.1:{port}/")) as authenticator:
        with pytest.raises(AuthUnavailable, match="cannot be asked") as caught:
            await authenticator.authenticate("d-1", "t")
    assert "swordfish" not in str(caught.value)


async def test_h19_http_a_black_hole_is_not_a_no_and_takes_no_longer_than_said(autojump_clock: trio.abc.Clock) -> None:
    """H19: more questions than slots, and a service that accepts connections and says nothing.

    Those that never got a slot give up in the same time, so nobody waits for a queue of timeouts.
    """
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    failures: list[float] = []
    async with listener:
        url = f"http://127.0.0.1:{port_of(listener)}/"
        settings = config_of("http", url=url, timeout=5.0, concurrency=2)
        async with open_authenticator(settings) as authenticator, trio.open_nursery() as nursery:
            started = trio.current_time()

            async def ask() -> None:
                with pytest.raises(AuthUnavailable, match="did not answer within 5 s"):
                    await authenticator.authenticate("d-1", "t")
                failures.append(trio.current_time() - started)

            for _ in range(5):
                nursery.start_soon(ask)
    assert failures == pytest.approx([5.0] * 5)


async def test_http_asks_no_more_at_once_than_it_may() -> None:
    here, most = 0, 0
    gate = trio.Event()

    async def serve_one(stream: trio.SocketStream) -> None:
        nonlocal here, most
        here += 1
        most = max(most, here)
        if here == 2:
            gate.set()
        await gate.wait()
        await stream.receive_some()
        here -= 1
        await stream.send_all(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve_one, 0)
        settings = config_of("http", url=f"http://127.0.0.1:{port_of(listeners[0])}/", concurrency=2)
        async with open_authenticator(settings) as authenticator, trio.open_nursery() as askers:
            for _ in range(8):
                askers.start_soon(rejection, authenticator, "d-1", "t")
        nursery.cancel_scope.cancel()
    assert most == 2


async def test_http_ignores_the_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would see every device's token."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with (
        auth_service(lambda _: (200, b"{}")) as url,
        open_authenticator(config_of("http", url=url)) as authenticator,
    ):
        assert await authenticator.authenticate("d-1", "t") == Identity("d-1")


# --- custom -----------------------------------------------------------------------------------------------------------


class Friendly:
    """A user's authenticator, with a life of its own."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.open = False

    async def __aenter__(self) -> "Friendly":
        self.open = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self.open = False

    async def authenticate(self, device: str | None, token: str | None) -> Identity:
        assert self.open
        if token == "explode":
            raise RuntimeError("swordfish")
        return Identity(device or "d-0", ("a",)) if self.answer is None else self.answer


HERE = f"{__name__}:Friendly"


async def test_custom_is_made_entered_and_asked() -> None:
    async with open_authenticator(config_of("custom", factory=HERE)) as authenticator:
        assert await authenticator.authenticate("d-1", None) == Identity("d-1", ("a",))
        assert await authenticator.authenticate(None, None) == Identity("d-0", ("a",))


async def test_custom_that_fails_is_unavailable_and_its_error_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with open_authenticator(config_of("custom", factory=HERE)) as authenticator:
        with pytest.raises(AuthUnavailable) as caught:
            await authenticator.authenticate("d-1", "explode")
    assert "swordfish" not in str(caught.value)
    assert "swordfish" in caplog.text


@pytest.mark.parametrize(
    "answer", ["d-1", Identity("a b"), Identity("d-1", ("a b",)), Identity("d-1", (), float("nan"))]
)
async def test_custom_is_not_believed_an_impossible_answer(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with open_authenticator(config_of("custom", factory=HERE, options={"answer": answer})) as authenticator:
        with pytest.raises(AuthUnavailable):
            await authenticator.authenticate("d-1", None)
    assert "the authenticator Friendly failed" in caplog.text


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        ("no.such.module:Class", {}),
        (f"{__name__}:Missing", {}),
        ("builtins:dict", {}),
        (HERE, {"unknown": 1}),
    ],
)
async def test_custom_that_cannot_be_made_is_a_mistake_of_the_configuration(
    factory: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"auth\.custom\.factory"):
        async with open_authenticator(config_of("custom", factory=factory, options=options)):
            raise AssertionError("it started")


# --- what requests say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "headers", "expected"),
    [
        ({}, {}, (None, None)),
        ({"deviceId": ["d-1"], "token": ["t"], "EIO": ["4"]}, {}, ("d-1", "t")),
        ({"deviceId": ["d-1"]}, {"authorization": "Bearer t"}, ("d-1", "t")),
        ({"deviceId": ["d-1"]}, {"authorization": "bearer   t "}, ("d-1", "t")),
        ({"token": ["t"]}, {"authorization": "Bearer t"}, (None, "t")),
        ({"deviceId": [""], "token": [""]}, {}, (None, None)),
        ({"token": ["t"]}, {"authorization": "Basic dTpw"}, (None, "t")),
        ({"deviceid": ["d-1"]}, {}, (None, None)),
    ],
)
def test_credentials_of_a_request(query: dict[str, list[str]], headers: dict[str, str], expected: Any) -> None:
    assert credentials(query, headers) == expected


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ({"deviceId": ["d-1", "d-2"]}, {}),
        ({"deviceId": ["d-1", "d-1"]}, {}),
        ({"token": ["t", "u"]}, {}),
        ({"token": ["t"]}, {"authorization": "Bearer u"}),
        ({}, {"authorization": "Bearer"}),
        ({}, {"authorization": "Bearer a b"}),
        ({}, {"authorization": "Bearer a, Bearer b"}),
    ],
)
def test_ambiguous_credentials_are_refused(query: dict[str, list[str]], headers: dict[str, str]) -> None:
    """H19: what two readers could understand differently is understood by none."""
    with pytest.raises(AuthRejected):
        credentials(query, headers)


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (None, (None, None)),
        ({}, (None, None)),
        ({"token": "t"}, (None, "t")),
        ({"deviceId": "d-1", "token": "t", "more": 1}, ("d-1", "t")),
    ],
)
def test_credentials_of_the_connect_packet(auth: object, expected: Any) -> None:
    assert credentials_from_auth(auth) == expected


@pytest.mark.parametrize("auth", [[], "t", 5, True, {"token": 5}, {"deviceId": None}, {"deviceId": ["d-1"]}])
def test_an_auth_of_another_form_is_refused(auth: object) -> None:
    """S11: the auth payload is an object with texts, or nothing."""
    with pytest.raises(AuthRejected):
        credentials_from_auth(auth)


def test_credentials_from_two_places_must_agree() -> None:
    assert merge_credentials(("d-1", None), (None, "t")) == ("d-1", "t")
    assert merge_credentials(("d-1", "t"), ("d-1", "t")) == ("d-1", "t")
    with pytest.raises(AuthRejected, match="deviceId is given twice"):
        merge_credentials(("d-1", None), ("d-2", "t"))
    with pytest.raises(AuthRejected, match="token is given twice"):
        merge_credentials(("d-1", "t"), (None, "u"))


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_made_token_is_accepted() -> None:
    settings = config_of("hmac", secret=SECRET, device_claim="dev", audience="pushd", issuer="us", leeway=0)
    before = time.time()
    async with open_authenticator(settings) as authenticator:
        assert await authenticator.authenticate("d-1", make_token(settings, "d-1")) == Identity("d-1")
        identity = await authenticator.authenticate("d-1", make_token(settings, "d-1", ["a", "b"], 60.0))
    assert identity.topics == ("a", "b")
    assert identity.expires is not None
    assert before + 59 <= identity.expires <= time.time() + 61


def test_a_token_is_not_made_for_nonsense_or_without_a_secret() -> None:
    settings = config_of("hmac", secret=SECRET)
    with pytest.raises(BadRequest, match="device id"):
        make_token(settings, "a b")
    with pytest.raises(BadRequest, match="topic"):
        make_token(settings, "d-1", ["a b"])
    with pytest.raises(ConfigError, match=r"auth\.hmac\.secret: is required"):
        make_token(config_of("hmac"), "d-1")
    with pytest.raises(ConfigError, match=r"auth\.hmac\.algorithms"):
        make_token(config_of("hmac", algorithms=["EdDSA"], secret=SECRET), "d-1")
