"""Passwords, ACL users, databases and TLS against real servers: what is refused is refused with a reason to act on."""

from pathlib import Path

import pytest
import trustme

from pushd.errors import ConfigError, StoreUnavailable
from pushd.store.redis.replies import AccessDenied
from tests.redis.clients import again, client
from tests.redis.servers import Server, server, tls_server

SECRET = "p@ss:w/rd"
QUOTED = "p%40ss%3Aw%2Frd"


def with_user(redis: Server, user: str) -> str:
    """The server's URL, for a user."""
    return redis.url.replace("://", f"://{user}@")


async def test_a_password_alone(redis: Server) -> None:
    redis.ask("CONFIG", "SET", "requirepass", SECRET)
    async with client(with_user(redis, f":{QUOTED}")) as redis_client:
        assert await redis_client.execute("", "ACL", "WHOAMI") == b"default"


async def test_a_user_and_a_database(redis: Server) -> None:
    redis.ask("ACL", "SETUSER", "app", "on", f">{SECRET}", "+@all", "~*")
    async with client(with_user(redis, f"app:{QUOTED}") + "?db=3") as redis_client:
        assert await redis_client.execute("", "ACL", "WHOAMI") == b"app"
        await redis_client.execute("k", "SET", "k", "1")
        await redis_client.blocking("k", "BLPOP", "l", 0.01, timeout=1)
        databases = {each["db"] for each in redis.clients()}
    assert databases == {"3"}
    assert redis.info("keyspace") == {"db3": redis.info("keyspace")["db3"]}


@pytest.mark.parametrize(("user", "code"), [("app:wrong", "WRONGPASS"), ("nobody:x", "WRONGPASS"), ("", "NOAUTH")])
async def test_h19_a_wrong_password_is_a_matter_of_configuration(user: str, code: str, redis: Server) -> None:
    redis.ask("ACL", "SETUSER", "app", "on", ">right", "+@all", "~*")
    redis.ask("CONFIG", "SET", "requirepass", "other")
    with pytest.raises(ConfigError, match=rf"^store.url: redis .*: it refuses our user or password \({code}") as caught:
        async with client(with_user(redis, user) if user else redis.url):
            pytest.fail("it was let in")
    assert "wrong" not in str(caught.value)


async def test_a_missing_right_names_the_command_and_its_category(redis: Server) -> None:
    redis.ask("ACL", "SETUSER", "app", "on", ">pw", "~pushd:*", "+@connection", "+get", "+eval")
    async with client(with_user(redis, "app:pw")) as redis_client:
        with pytest.raises(AccessDenied, match=r"run XADD \(category @stream\)"):
            await redis_client.execute("pushd:s", "XADD", "pushd:s", "*", "a", "b")
        with pytest.raises(AccessDenied, match=r"run GET .*key"):
            await redis_client.execute("other", "GET", "other")
        script = "return redis.call('HSET', KEYS[1], 'a', 'b')"
        with pytest.raises(AccessDenied, match=r"run (HSET \(category @hash\)|a command) in a script \(EVAL\)"):
            await redis_client.execute("pushd:h", "EVAL", script, 1, "pushd:h")
        assert await redis_client.execute("pushd:k", "GET", "pushd:k") is None
        redis.ask("ACL", "SETUSER", "app", "+xadd")
        assert await redis_client.execute("pushd:s", "XADD", "pushd:s", "1-1", "a", "b") == b"1-1"


async def test_a_channel_that_is_not_allowed_is_said(redis: Server, caplog: pytest.LogCaptureFixture) -> None:
    redis.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "resetchannels", "&mine", "+@all")
    async with client(with_user(redis, "app:pw")) as redis_client, redis_client.subscribe("other") as subscription:
        await again_logged(caplog, "run SUBSCRIBE (category @pubsub)")
        redis.ask("ACL", "SETUSER", "app", "allchannels")
        await anext(subscription)


async def again_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait until a text has been logged."""

    async def look() -> None:
        if text not in caplog.text:
            raise StoreUnavailable("not yet")

    await again(look)


async def test_h19_a_user_who_is_thrown_out_is_denied(redis: Server) -> None:
    redis.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all")
    async with client(with_user(redis, "app:pw")) as redis_client:
        redis.ask("ACL", "DELUSER", "app")
        reasons: list[StoreUnavailable] = []

        async def denied() -> None:
            try:
                await redis_client.execute("", "PING")
            except AccessDenied as error:
                reasons.append(error)

        await again(denied)
        assert "WRONGPASS" in str(reasons[0])
        redis.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all")
        assert await again(lambda: redis_client.execute("", "PING")) == b"PONG"


async def test_tls() -> None:
    with tls_server() as redis:
        async with client(redis.url) as redis_client:
            payload = bytes(range(256)) * 1_000
            await redis_client.execute("k", "SET", "k", payload)
            assert await redis_client.execute("k", "GET", "k") == payload
            assert await redis_client.blocking("l", "BLPOP", "l", 0.01, timeout=1) is None
            redis.kill()
            redis.start()
            assert await again(lambda: redis_client.execute("k", "GET", "k")) == payload


async def test_tls_of_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with tls_server() as redis:
        for url in (f"rediss://localhost:{redis.port}", f"rediss://localhost:{redis.port}?ca={other}"):
            with pytest.raises(ConfigError, match=r"its certificate is not trusted: .*name the authority"):
                async with client(url):
                    pytest.fail("it was trusted")
        with pytest.raises(ConfigError, match=r"not trusted: .*127\.0\.0\.1"):
            async with client(redis.url.replace("localhost", "127.0.0.1")):
                pytest.fail("it is for localhost")


async def test_tls_with_a_certificate_of_ours() -> None:
    with tls_server("--tls-auth-clients", "yes") as redis:
        async with client(f"{redis.url}&cert={redis.client}") as redis_client:
            assert await redis_client.execute("", "PING") == b"PONG"
        with pytest.raises((ConfigError, StoreUnavailable)):
            async with client(redis.url, patience=1):
                pytest.fail("it asked for a certificate")


async def test_tls_to_a_server_without(flavour: str) -> None:
    with server(flavour, tcp=True) as redis, pytest.raises((ConfigError, StoreUnavailable), match="TLS"):
        async with client(redis.url.replace("redis://", "rediss://"), timeout=1, patience=3):
            pytest.fail("it has no TLS")
    with tls_server() as redis, pytest.raises(StoreUnavailable, match=r"closed the connection|broke"):
        async with client(f"redis://localhost:{redis.port}", patience=1):
            pytest.fail("it has nothing but TLS")
