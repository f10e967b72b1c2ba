"""URLs of a store: what each says, and what is said of those that are wrong."""

import ssl
from pathlib import Path

import pytest
import trustme

from pushd.errors import ConfigError
from pushd.store.redis.address import Access, Address, Endpoint, Kind, parse_address, without_password


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", Address(Kind.ALONE, (Endpoint("h", 6379),), Access())),
        ("redis://h:1/2", Address(Kind.ALONE, (Endpoint("h", 1),), Access(db=2))),
        ("redis://[::1]:7/", Address(Kind.ALONE, (Endpoint("::1", 7),), Access())),
        ("redis://:p%40@h", Address(Kind.ALONE, (Endpoint("h", 6379),), Access(None, "p@"))),
        ("redis://u%3A:p:q@h", Address(Kind.ALONE, (Endpoint("h", 6379),), Access("u:", "p:q"))),
        ("redis://u@h", Address(Kind.ALONE, (Endpoint("h", 6379),), Access("u"))),
        ("redis+unix:///run/a%20b?db=4", Address(Kind.UNIX, (Endpoint("/run/a b", 0),), Access(db=4))),
        ("redis+unix://u:p@/s", Address(Kind.UNIX, (Endpoint("/s", 0),), Access("u", "p"))),
        (
            "redis+cluster://u:p@a,b:7000,[::2]:1/0",
            Address(Kind.CLUSTER, (Endpoint("a", 6379), Endpoint("b", 7000), Endpoint("::2", 1)), Access("u", "p")),
        ),
        (
            "redis+sentinel://u:p@a,b:1/my%2Fname/3?sentinel_user=s&sentinel_password=t%26",
            Address(
                Kind.SENTINEL,
                (Endpoint("a", 26379), Endpoint("b", 1)),
                Access("u", "p", 3),
                "my/name",
                Access("s", "t&"),
            ),
        ),
    ],
)
def test_what_a_url_says(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://h", "is no address of Redis; write redis://HOST:PORT/DB"),
        ("redis+nothing://h", "is no address of Redis"),
        ("redis://", "no host is named"),
        ("redis://h:0", "a port is 1 to 65535"),
        ("redis://h:65536", "a port is 1 to 65535"),
        ("redis://h:x", "is no HOST:PORT"),
        ("redis://a,b", "redis:// takes one host"),
        ("redis://::1", "is no HOST:PORT (an IPv6 address stands in brackets)"),
        ("redis://h/x", "the database is a number, not 'x'"),
        ("redis://h?db=1", "there is no option 'db' here; there is none"),
        ("redis://h?ca=x", "`ca` is for TLS; write rediss"),
        ("rediss://h?ca=/does/not/exist", "TLS cannot start with these files: ca=/does/not/exist: No such file"),
        ("rediss://h?key=x", "`key` belongs to a `cert`"),
        ("rediss+unix:///s", "a Unix socket has no TLS"),
        ("redis+unix://s", "takes the absolute path of a socket"),
        ("redis+unix:///", "takes the absolute path of a socket"),
        ("redis+sentinel://a,b", "name the primary"),
        ("redis+cluster://a/1", "a cluster has one database, 0"),
        ("redis://h#x", "is no address of Redis"),
    ],
)
def test_what_is_said_of_a_wrong_url(url: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(url)
    assert str(caught.value).startswith("store.url: ")
    assert problem in str(caught.value)


def test_tls_trusts_the_named_authority_and_nothing_old(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = parse_address(f"rediss+cluster://h?ca={tmp_path}/ca.pem").access.tls
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert tls.check_hostname
    assert tls.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(tls.get_ca_certs()) == 1


def test_h18_no_password_is_shown() -> None:
    url = "redis+sentinel://u:secret@h,i/n?sentinel_user=s&sentinel_password=secret"
    assert "secret" not in repr(parse_address(url))
    assert without_password(url) == "redis+sentinel://u:***@h,i/n?sentinel_user=s&sentinel_password=***"
    assert without_password("redis://:secret@h") == "redis://:***@h"
    assert without_password("redis://h:1/2") == "redis://h:1/2"
    with pytest.raises(ConfigError) as caught:
        parse_address("redis://u:secret@h:x")
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        parse_address("http://u:secret@h:x")
    assert "secret" not in str(caught.value)
