"""The configuration: where values come from, and that every mistake is reported at once, with its place."""

import datetime
import ssl
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from engineio_trio import Settings
from pushd.config import Config, load, read
from pushd.config.layers import FLAGS, options
from pushd.config.reference import as_toml, effective, reference
from pushd.errors import ConfigError
from pushd.model import Confirm
from pushd.store.base import Deployment, Limits

SECRET = "0123456789abcdef0123456789abcdef"


def problems(
    text: str = "",
    environ: dict[str, str] | None = None,
    flags: dict[str, Any] | None = None,
    *,
    folder: Path,
) -> list[str]:
    """What is wrong with a configuration, without the name of its file."""
    file = folder / "pushd.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ or {}, flags or {})
    return [problem.replace(str(file), "FILE") for problem in caught.value.problems]


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_defaults_are_good(empty_directory: Path) -> None:
    assert load(None, {}, {}) == Config()


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "pushd.toml"
    file.write_text('[takeover]\nmax = 4\nwindow = 5\n[node]\nname = "file"\n[delivery]\nwindow = 4\n')
    environ = {"PUSHD_TAKEOVER__WINDOW": "6.5", "PUSHD_NODE__NAME": "environment", "PUSHD_DELIVERY__CONFIRM": "write"}
    loaded = read(file, environ, {"node.name": "flag", "takeover.max": 9})
    config = loaded.config
    assert (config.takeover.max, config.takeover.window, config.node.name) == (9, 6.5, "flag")
    assert (config.delivery.window, config.delivery.confirm, config.delivery.resend) == (4, Confirm.WRITE, 30.0)
    assert loaded.layers.origin("node.name") == "flag --node"
    assert loaded.layers.origin("takeover.window") == "environment PUSHD_TAKEOVER__WINDOW"
    assert loaded.layers.origin("delivery.window") == str(file)
    assert loaded.layers.origin("delivery.resend") == "default"


def test_text_of_a_variable_is_read_as_the_type_of_its_setting(empty_directory: Path) -> None:
    environ = {
        "PUSHD_DEVICES__CORS_ORIGINS": "https://a.example, https://b.example:8443",
        "PUSHD_DEVICES__TRUSTED_PROXIES": '["10.0.0.0/8"]',
        "PUSHD_PROTOCOL__ALLOW_EIO3": "True",
        "PUSHD_LIMITS__PAYLOAD": "5000",
        "PUSHD_NODE__NAME": "17",
        "PUSHD_AUTH__CUSTOM__OPTIONS": '{"a": 1}',
    }
    config = load(None, environ, {})
    assert config.devices.cors_origins == ("https://a.example", "https://b.example:8443")
    assert config.devices.trusted_proxies == ("10.0.0.0/8",)
    assert config.protocol.allow_eio3 is True
    assert config.limits.payload == 5000
    assert config.node.name == "17"
    assert config.auth.custom.options == {"a": 1}


ONE_MISTAKE = [
    ("[takeover]\nmaxx = 1", 'takeover.maxx: no such setting; did you mean "max"? (FILE)'),
    ("[takeovr]\nmax = 1", 'takeovr: no such setting; did you mean "takeover"? (FILE)'),
    (
        "[devices]\nping_interval = 3",
        "devices.ping_interval: no such setting; did you mean protocol.ping_interval? (FILE)",
    ),
    ("[devices]\nblue = 3", "devices.blue: no such setting (FILE)"),
    ("devices = 3", "devices: must be a table: [devices] (FILE)"),
    ("[takeover]\nmax = 0", "takeover.max: must be greater than or equal to 1, not 0 (FILE)"),
    ("[takeover]\nmax = 1.5", "takeover.max: must be a valid integer, not 1.5 (FILE)"),
    ('[takeover]\nmax = "3"', 'takeover.max: must be a valid integer, not "3" (FILE)'),
    ("[takeover]\nmax = true", "takeover.max: must be a valid integer, not true (FILE)"),
    ("[heartbeat]\ninterval = -1", "heartbeat.interval: must be greater than 0, not -1 (FILE)"),
    ("[heartbeat]\ninterval = inf", "heartbeat.interval: must be a finite number, not Infinity (FILE)"),
    ('[delivery]\nconfirm = "maybe"', "delivery.confirm: must be 'client' or 'write', not \"maybe\" (FILE)"),
    (
        '[devices]\ncors_origins = ["https://a.example", 5]',
        "devices.cors_origins: must be a valid string, not 5 (FILE)",
    ),
    (
        '[devices]\ncors_origins = ["https://a.example/"]',
        'devices.cors_origins: "https://a.example/" is not an origin such as "https://app.example" '
        "(no path, no slash at the end) (FILE)",
    ),
    (
        '[devices]\ncors_origins = ["*"]\ncors_credentials = true',
        'devices.cors_origins: "*" cannot go with cors_credentials: name the origins (FILE)',
    ),
    (
        '[devices]\nlisten = "8780"',
        'devices.listen: must be HOST:PORT, such as "127.0.0.1:8780" or "[::1]:8780" (FILE)',
    ),
    (
        '[devices]\ntrusted_proxies = ["10.0.0.0/33"]',
        'devices.trusted_proxies: "10.0.0.0/33" is neither an address nor a network such as "10.0.0.0/8" (FILE)',
    ),
    (
        '[admin]\nlisten = "127.0.0.1:8780"',
        "admin.listen: is the address of devices.listen: they need one each (FILE)",
    ),
    (
        '[admin]\nlisten = "0.0.0.0:8781"',
        "admin.token: other machines can reach 0.0.0.0:8781, so a token is required: set admin.token (FILE)",
    ),
    (
        '[devices]\nlisten = "[::]:8780"',
        'auth.kind: "open" lets anybody who can reach [::]:8780 be any device: choose another kind, '
        "or set auth.insecure = true if that is what you want (FILE)",
    ),
    (
        '[store]\nurl = "redis+sentinel://localhost"',
        "store.url: name the primary that the sentinels watch, as in redis+sentinel://host1,host2/NAME (FILE)",
    ),
    (
        '[store]\nurl = "rediss:/localhost"',
        "store.url: no host is named; write redis://HOST:PORT/DB, "
        "redis+unix:///PATH, redis+sentinel://HOSTS/NAME or redis+cluster://HOSTS (FILE)",
    ),
    (
        '[store]\nurl = "redis://localhost"\n[node]\nlease = 9',
        "node.lease: must be at least 2 * node.refresh = 10, or one late renewal would cost a node its devices (FILE)",
    ),
    (
        '[store]\nurl = "pushd.db"',
        "store.url: must be sqlite:///FILE, such as sqlite:///pushd.db, or redis://HOST (FILE)",
    ),
    ('[store]\nurl = "sqlite:////no/such/pushd.db"', "store.url: the directory /no/such does not exist (FILE)"),
    ("[store]\npartitions = 4", "store.partitions: has a meaning only with a Redis store (FILE)"),
    ("[node]\nworkers = 2", "node.workers: SQLite serves one process: more workers need a Redis store (FILE)"),
    ("[node]\nlease = 9", "node.lease: has a meaning only with a Redis store (FILE)"),
    ('[auth]\nkind = "http"', "auth.http.url: is required with auth.kind http (FILE)"),
    ('[auth]\nkind = "custom"', "auth.custom.factory: is required with auth.kind custom (FILE)"),
    ('[auth]\nkind = "hmac"', "auth.hmac.secret: is required with the algorithm HS256 (FILE)"),
    (
        '[auth]\nkind = "hmac"\n[auth.hmac]\nsecret = "short"',
        "auth.hmac.secret: has 5 bytes; HS256 needs at least 32, such as from: openssl rand -hex 32 (FILE)",
    ),
    (
        '[auth]\nkind = "hmac"\n[auth.hmac]\nalgorithms = ["EdDSA"]',
        "auth.hmac.public_key: is required with the algorithm EdDSA (FILE)",
    ),
    (
        '[auth]\nkind = "hmac"\n[auth.hmac]\nalgorithms = ["none"]',
        "auth.hmac.algorithms: must be 'HS256', 'RS256' or 'EdDSA', not \"none\" (FILE)",
    ),
    ("[auth.hmac]\nalgorithms = []", "auth.hmac.algorithms: must name at least one (FILE)"),
    (
        '[auth]\nkind = "static"',
        "auth.static.file: tokens.toml cannot be read: No such file or directory (FILE)",
    ),
    (
        '[devices.tls]\ncertificate = "none.pem"',
        "devices.tls.certificate: none.pem cannot be read: No such file or directory (FILE)",
    ),
    ('[devices.tls]\nkey = "key.pem"', "devices.tls.key: has no use without devices.tls.certificate (FILE)"),
    (
        "[heartbeat]\nstale_after = 55",
        "heartbeat.stale_after: must be more than protocol.ping_interval + protocol.ping_timeout + heartbeat.interval "
        "= 55, or living devices would be called offline (FILE)",
    ),
    (
        "[limits]\npending_acks = 60",
        "delivery.window: must not be more than limits.pending_acks / 4 = 15, for a message may be sent 4 times (FILE)",
    ),
    ("[delivery]\ninbox_max = 8", "delivery.window: must not be more than delivery.inbox_max = 8 (FILE)"),
]


@pytest.mark.parametrize(("text", "expected"), ONE_MISTAKE, ids=[expected[:60] for _, expected in ONE_MISTAKE])
def test_one_mistake_is_one_line(empty_directory: Path, text: str, expected: str) -> None:
    assert problems(text, folder=empty_directory) == [expected]


def test_all_mistakes_of_all_layers_come_at_once(empty_directory: Path) -> None:
    found = problems(
        '[takeover]\nmax = 0\nwindow = "x"\n[admin]\nlisten = "0.0.0.0:1"\n[devices]\ncors_origins = [1, 2]\n',
        {"PUSHD_STORE__PARTITIONS": "many", "PUSHD_STOR__URL": "x", "PUSHD_STORE__URL": "redis://x:0"},
        {"node.workers": "0", "auth.kind": "any"},
        folder=empty_directory,
    )
    assert sorted(found) == [
        'PUSHD_STOR__URL: no such setting; did you mean "PUSHD_STORE__URL"? (environment)',
        "admin.token: other machines can reach 0.0.0.0:1, so a token is required: set admin.token (FILE)",
        "auth.kind: must be 'open', 'static', 'hmac', 'http', 'custom' or 'store', not \"any\" (flag --auth)",
        "devices.cors_origins: must be a valid string, not 1 (FILE)",
        "devices.cors_origins: must be a valid string, not 2 (FILE)",
        "node.workers: must be greater than or equal to 1, not 0 (flag --workers)",
        'store.partitions: must be a valid integer, not "many" (environment PUSHD_STORE__PARTITIONS)',
        "store.url: 'x:0': a port is 1 to 65535 (environment PUSHD_STORE__URL)",
        "takeover.max: must be greater than or equal to 1, not 0 (FILE)",
        'takeover.window: must be a valid number, not "x" (FILE)',
    ]


def test_a_redis_store_makes_its_keys_real(tmp_path: Path) -> None:
    text = '[store]\nurl = "rediss+cluster://a,b:7000"\nprefix = "p"\npartitions = 8\nwait_replicas = 1\n'
    file = tmp_path / "pushd.toml"
    file.write_text(text + "[node]\nlease = 20\nrefresh = 4\nworkers = 2\n")
    config = load(file, {}, {})
    assert config.deployment() == Deployment("p", 8, 1, 20.0, 4.0)
    assert config.node.workers == 2


def test_a_value_that_is_wrong_causes_no_second_line(empty_directory: Path) -> None:
    found = problems('[auth]\nkind = "hmac"\nhmac = 7\n[heartbeat]\nstale_after = "x"', folder=empty_directory)
    assert [line.partition(":")[0] for line in found] == ["auth.hmac", "heartbeat.stale_after"]


@pytest.mark.parametrize("key", ["admin.token", "auth.hmac.secret"])
def test_a_secret_of_the_wrong_type_is_not_repeated(empty_directory: Path, key: str) -> None:
    table, _, name = key.rpartition(".")
    (found,) = problems(f"[{table}]\n{name} = 918273645", folder=empty_directory)
    assert found == f"{key}: must be a valid string (FILE)"


def test_a_token_that_no_header_can_carry_is_refused_unseen(empty_directory: Path) -> None:
    (found,) = problems('[admin]\ntoken = "two words"', folder=empty_directory)
    assert found == "admin.token: must be visible ASCII without spaces, because it travels in a header (FILE)"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[devices", "is not TOML: "),
        (b"a = 1\na = 2", "is not TOML: "),
        (b"a = " + b"9" * 5000, "is not TOML: "),
        (b"a = '\xff'", "is not UTF-8 text (byte 5)"),
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "pushd.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file, {}, {"node.workers": 3})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{file}: {expected}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml", {}, {})


@pytest.mark.parametrize(
    "name",
    [
        "PUSHD_FAILPOINT",
        "PUSHD_ADMIN",
        "PUSHD_ADMIN_TOKEN",
        "PUSHD_SERVICE_HOST",
        "PUSHD_PORT_8780_TCP_ADDR",
        "PUSHD_ADMIN_SERVICE_PORT_HTTP",
        "OTHER",
    ],
)
def test_variables_of_others_are_left_alone(empty_directory: Path, name: str) -> None:
    assert load(None, {name: "tcp://10.0.0.1:1"}, {}) == Config()


@pytest.mark.parametrize("name", ["PUSHD_", "PUSHD_CONFIG", "PUSHD_STORE_URL", "PUSHD_NODE__PORT", "PUSHD_store__url"])
def test_other_variables_of_ours_are_mistakes(empty_directory: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {name: "1"}, {})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [name]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "[::1]", "localhost"])
def test_loopback_needs_neither_token_nor_proof(empty_directory: Path, host: str) -> None:
    config = load(None, {}, {"devices.listen": f"{host}:0", "admin.listen": f"{host}:0"})
    assert config.devices.address == (host.strip("[]"), 0)


def test_open_beyond_loopback_can_be_insisted_on(empty_directory: Path) -> None:
    assert load(None, {"PUSHD_AUTH__INSECURE": "true"}, {"devices.listen": "0.0.0.0:1"}).auth.insecure


def test_public_keys_are_checked_against_their_algorithm(empty_directory: Path) -> None:
    """H19: an RSA key for EdDSA, or something else than a key, is found before any token is seen."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    for name, key in (("rsa.pem", rsa_key), ("ed.pem", ed25519.Ed25519PrivateKey.generate().public_key())):
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (empty_directory / name).write_bytes(pem)
    (empty_directory / "not.pem").write_text("hello")

    def check(algorithm: str, key: str) -> Config:
        environ = {"PUSHD_AUTH__HMAC__PUBLIC_KEY": key, "PUSHD_AUTH__HMAC__ALGORITHMS": algorithm}
        return load(None, environ, {"auth.kind": "hmac"})

    assert check("RS256", "rsa.pem").auth.hmac.algorithms == ("RS256",)
    assert check("EdDSA", "ed.pem").auth.hmac.algorithms == ("EdDSA",)
    for algorithm, key, message in (
        ("EdDSA", "rsa.pem", "rsa.pem is not a key for EdDSA"),
        ("RS256", "ed.pem", "ed.pem is not a key for RS256"),
        ("RS256", "not.pem", "not.pem is not a public key in PEM form"),
        ("RS256", "none.pem", "none.pem cannot be read: No such file or directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            check(algorithm, key)
        assert caught.value.problems[0].startswith(f"auth.hmac.public_key: {message} (")


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = (
        builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=30)).sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


def test_tls_files_make_a_context(empty_directory: Path) -> None:
    certificate, key = write_certificate(empty_directory)
    environ = {"PUSHD_DEVICES__TLS__CERTIFICATE": str(certificate), "PUSHD_DEVICES__TLS__KEY": str(key)}
    context = load(None, environ, {}).devices.tls.context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_NONE
    environ["PUSHD_DEVICES__TLS__CLIENT_CA"] = str(certificate)
    context = load(None, environ, {}).devices.tls.context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert Config().devices.tls.context() is None


def test_tls_files_that_do_not_fit_are_found_before_the_start(empty_directory: Path) -> None:
    certificate, _ = write_certificate(empty_directory)
    (empty_directory / "key.pem").write_text("nothing")
    environ = {"PUSHD_DEVICES__TLS__CERTIFICATE": str(certificate), "PUSHD_DEVICES__TLS__KEY": "key.pem"}
    with pytest.raises(ConfigError, match="TLS cannot start with these files"):
        load(None, environ, {})


@pytest.mark.parametrize(
    ("url", "file"),
    [("sqlite:///a.db", "a.db"), ("sqlite:////tmp/a.db", "/tmp/a.db"), ("sqlite:///a%20b.db", "a b.db")],
)
def test_the_store_url_names_a_file(url: str, file: str) -> None:
    assert Config.model_validate({"store": {"url": url}}).store.file == Path(file)


def test_the_lower_layers_get_what_was_set(empty_directory: Path) -> None:
    environ = {"PUSHD_LIMITS__PAYLOAD": "77", "PUSHD_DEVICES__CORS_ORIGINS": "*", "PUSHD_STREAMS__MAX": "9"}
    config = load(None, environ, {"takeover.max": 5})
    settings = config.settings()
    assert (settings.max_payload, settings.cors_origins, settings.connect_timeout) == (77, "*", 10.0)
    assert config.store_limits() == Limits(takeovers=5, stream_max=9)


def test_defaults_are_those_of_the_lower_layers() -> None:
    """But for two: a daemon for small messages, which knows after 10 s that nobody will join."""
    assert Config().settings() == Settings(max_payload=100_000, connect_timeout=10.0)
    assert Config().store_limits() == Limits()


def test_show_config_can_be_read_again_and_hides_secrets(empty_directory: Path) -> None:
    environ = {
        "PUSHD_ADMIN__TOKEN": "swordfish",
        "PUSHD_AUTH__HMAC__SECRET": SECRET,
        "PUSHD_AUTH__HTTP__URL": "http://user:swordfish@127.0.0.1/check",
        "PUSHD_AUTH__CUSTOM__OPTIONS": '{"key": "swordfish"}',
        "PUSHD_NODE__NAME": "here",
    }
    loaded = read(None, environ, {})
    text = as_toml(loaded)
    assert "swordfish" not in text + str(effective(loaded.config)) + repr(loaded.config.admin)
    assert SECRET not in text + str(effective(loaded.config)) + repr(loaded.config.auth.hmac)
    assert 'name = "here"  # environment PUSHD_NODE__NAME' in text
    shown = tomllib.loads(text)
    assert shown == effective(loaded.config)
    assert shown["admin"]["token"] == "***"
    assert shown["auth"]["custom"]["options"] == {"key": "***"}
    assert shown["auth"]["http"]["url"] == "http://user:***@127.0.0.1/check"
    (empty_directory / "again.toml").write_text(text)
    assert load(empty_directory / "again.toml", {}, {}).node.name == "here"


def test_every_key_has_a_meaning_and_every_flag_a_key() -> None:
    found = list(options(Config))
    assert [option.path for option in found if not option.meaning] == []
    assert set(FLAGS) <= {option.path for option in found}
    assert len({option.variable for option in found}) == len(found)


def test_the_page_of_all_settings_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "config.md"
    assert page.read_text() == reference(), "make it again: python -m pushd.config.reference > docs/config.md"
