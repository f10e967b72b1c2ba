"""The client and the server over TLS."""

import datetime
import pathlib
import ssl

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engineio_trio import SocketServer
from engineio_trio.client import connect
from tests.client.test_connect import make_server, until, ways

DAY = datetime.timedelta(days=1)


def contexts(folder: pathlib.Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a fresh certificate for 127.0.0.1, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.DNSName("localhost")
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - DAY, now + DAY)
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    chain = folder / "chain.pem"
    chain.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(chain)
    return ours, ssl.create_default_context(cafile=str(chain))


async def serve(nursery: trio.Nursery, server: SocketServer, context: ssl.SSLContext) -> str:
    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    [address] = await nursery.start(server.serve_listeners, listeners)
    return f"https://localhost:{address[1]}"


@ways
async def test_over_tls(nursery: trio.Nursery, tmp_path: pathlib.Path, transports: tuple[str, ...]) -> None:
    server = make_server()
    ours, theirs = contexts(tmp_path)
    url = await serve(nursery, server, ours)
    async with connect(url, transports=transports, ssl_context=theirs) as socket:
        assert await socket.call("echo", "x" * 100_000, b"y" * 100_000) == ("x" * 100_000, b"y" * 100_000)
        if len(transports) == 2:
            await until(lambda: socket.transport == "websocket")
        assert await socket.call("echo", 1) == 1
    await until(lambda: not server.connections)
    await server.shutdown()


@ways
async def test_certificate_that_is_not_trusted(
    nursery: trio.Nursery, tmp_path: pathlib.Path, transports: tuple[str, ...]
) -> None:
    server = make_server()
    ours, _ = contexts(tmp_path)
    url = await serve(nursery, server, ours)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        async with connect(url, transports=transports):
            raise AssertionError("joined")
    await server.shutdown()


async def test_context_without_tls() -> None:
    with pytest.raises(ValueError, match="ssl_context"):
        async with connect("http://localhost:1", ssl_context=ssl.create_default_context()):
            raise AssertionError("joined")
