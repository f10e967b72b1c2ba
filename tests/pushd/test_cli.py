"""`pushdctl`: what it prints and its exit codes, against a scripted server, and against a real daemon as processes."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest

from pushd.cli import admin_client, main
from tests.patience import PATIENCE

SECRET = "0123456789abcdef0123456789abcdef"
COMMANDS = ("serve", "check-config", "show-config", "send", "tail", "devices", "kick", "reconcile", "token")


@pytest.fixture(autouse=True)
def clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of its own, and no settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PUSHD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")


@dataclasses.dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def run_command(*argv: str) -> Ran:
        try:
            code = main(argv)
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Ran(code, *capsys.readouterr())

    return run_command


def process(*argv: str, **more: Any) -> "subprocess.Popen[str]":
    """Starts a command as a process of its own."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "pushd", *argv], text=True, **{**pipes, **more})


# --- the command line itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    shown = run(command, "--help")
    assert shown.code == 0
    assert shown.out.startswith(f"usage: pushdctl {command}")
    assert "exit codes:" in shown.out.lower()
    assert command in run("--help").out


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("fly",),
        ("send", "1"),
        ("send", "--device", "d-1"),
        ("send", "--device", "d-1", "--all", "1"),
        ("send", "--all", "--qos", "2", "1"),
        ("send", "--all", "--ttl", "0", "1"),
        ("send", "--all", "--wait", "nan", "1"),
        ("tail", "rumours"),
        ("kick",),
        ("kick", ""),
        ("kick", "a/../b"),
        ("devices", "\udcff"),
        ("send", "--all", "--ttl", "x", "1"),
        ("send", "--all", "--id", "\udcff", "1"),
        ("reconcile",),
        ("reconcile", "\udcff"),
        ("reconcile", "d-1", "--file", "x"),
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, argv: tuple[str, ...]) -> None:
    ran = run(*argv)
    assert (ran.code, ran.out) == (2, "")
    assert "pushdctl" in ran.err


def test_an_unknown_stream_is_answered_with_the_known_ones(run: Run) -> None:
    told = run("tail", "rumours").err
    assert "invalid choice: 'rumours'" in told
    assert "uplink" in told
    assert "Stream." not in told


def test_a_message_that_is_no_json_is_explained(run: Run) -> None:
    ran = run("send", "--all", "hello")
    assert ran.code == 2
    assert "a text needs its quotes: '\"hello\"'" in ran.err
    for text in ("NaN", "1e400", '"\\ud800"', '"\udcff"'):
        assert run("send", "--all", text).code == 2
    assert run("send", "--all", "[" * 100_000).code == 2
    assert len(run("send", "--all", "1" * 100_000).err) < 200


# --- configuration ----------------------------------------------------------------------------------------------------

MISTAKES = '[admin]\nlisten = "x"\n[takeover]\nmax = 0\n'


@pytest.mark.parametrize("command", ["serve", "check-config", "show-config"])
def test_all_mistakes_at_once_and_exit_code_2(run: Run, command: str) -> None:
    Path("pushd.toml").write_text(MISTAKES)
    ran = run(command, "--config", "pushd.toml", "--workers", "two", "--store", "mysql://x")
    assert (ran.code, ran.out) == (2, "")
    first, *rest = ran.err.splitlines()
    assert first == "pushdctl: the configuration has 4 mistakes:"
    assert sorted(line.split(":")[0].strip() for line in rest) == [
        "admin.listen",
        "node.workers",
        "store.url",
        "takeover.max",
    ]
    assert "(flag --workers)" in ran.err


def test_check_config_tells_programs(run: Run) -> None:
    Path("pushd.toml").write_text(MISTAKES)
    ran = run("check-config", "--config", "pushd.toml", "--json")
    answer = json.loads(ran.out)
    assert (ran.code, ran.err, answer["ok"], len(answer["problems"])) == (2, "", False, 2)
    ran = run("check-config", "--json")
    assert (ran.code, json.loads(ran.out)) == (0, {"ok": True, "problems": []})


def test_check_config_makes_the_authenticator(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHD_AUTH__CUSTOM__FACTORY", "no.such:Thing")
    ran = run("check-config", "--auth", "custom")
    assert ran.code == 2
    assert "auth.custom.factory: no.such:Thing cannot be made" in ran.err
    assert run("check-config").out == "good: devices on 127.0.0.1:8780, admin on 127.0.0.1:8781, auth open\n"


def test_show_config_shows_origins_but_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHD_ADMIN__TOKEN", "swordfish")
    ran = run("show-config", "--listen", "127.0.0.1:0")
    assert ran.code == 0
    assert 'listen = "127.0.0.1:0"  # flag --listen' in ran.out
    assert "swordfish" not in ran.out
    assert tomllib.loads(ran.out) == json.loads(run("show-config", "--listen", "127.0.0.1:0", "--json").out)


def test_token_is_signed_with_the_configured_secret(run: Run) -> None:
    Path("pushd.toml").write_text(f'[auth]\nkind = "hmac"\n[auth.hmac]\nsecret = "{SECRET}"\n')
    ran = run("token", "d-1", "--topics", "a,b", "--ttl", "60", "--config", "pushd.toml")
    claims = jwt.decode(ran.out.strip(), SECRET, algorithms=["HS256"])
    assert ran.code == 0
    assert (claims["sub"], claims["topics"], claims["exp"] - claims["iat"]) == ("d-1", ["a", "b"], 60)
    shown = json.loads(run("token", "d-1", "--json", "--config", "pushd.toml").out)
    assert (shown["device"], shown["topics"]) == ("d-1", [])
    assert "exp" not in jwt.decode(shown["token"], SECRET, algorithms=["HS256"])
    assert run("token", "a b", "--config", "pushd.toml").code == 2
    ran = run("token", "d-1")
    assert (ran.code, ran.out) == (2, "")
    assert "auth.hmac.secret: is required" in ran.err


# --- commands against a scripted admin interface ----------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Admin:
    """A server whose answers are written down beforehand, and what it was asked."""

    url: str
    answers: list[tuple[int, str | dict[str, Any]]]
    asked: list[tuple[str, str, Any]]
    headers: list[dict[str, str]]


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Admin]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            script.asked.append((self.command, self.path, body))
            script.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, content = script.answers.pop(0)
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            if isinstance(content, dict):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = Admin(f"http://127.0.0.1:{server.server_address[1]}", [], [], [])
    monkeypatch.setenv("PUSHD_ADMIN", script.url)
    monkeypatch.setattr(admin_client, "RETRIES", (0.0,))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


def pushed(*states: str) -> dict[str, Any]:
    receipts = [
        {
            "id": "m-1",
            "device": f"d-{number}",
            "state": state,
            "seq": number,
            "ts": 1.0,
            "reason": "full" * (state == "refused"),
        }
        for number, state in enumerate(states, 1)
    ]
    return {"id": "m-1", "counts": {state: states.count(state) for state in set(states)}, "receipts": receipts}


def test_send_asks_for_what_was_typed(run: Run, admin: Admin) -> None:
    admin.answers += [(200, pushed("stored"))] * 3
    run("send", "--device", "d-1", '{"a": [1, "é"]}')
    run("send", "--topic", "lamps", "--event", "dim", "--id", "m-1", "--ttl", "60", "--qos", "0", "--wait", "2", "-0.5")
    run("send", "--all", "null")
    assert admin.asked == [
        ("POST", "/v1/push", {"to": "device:d-1", "event": "push", "data": {"a": [1, "é"]}}),
        (
            "POST",
            "/v1/push",
            {"to": "topic:lamps", "event": "dim", "data": -0.5, "id": "m-1", "ttl": 60.0, "qos": 0, "wait": 2.0},
        ),
        ("POST", "/v1/push", {"to": "all", "event": "push", "data": None}),
    ]


@pytest.mark.parametrize(
    ("states", "wait", "code", "remark"),
    [
        (["stored"], None, 0, ""),
        (["stored", "duplicate"], None, 0, ""),
        (["stored", "refused"], None, 1, "refused for 1 of 2 devices"),
        ([], None, 0, "no device was meant: the topic has no members, or no device is known yet"),
        (["acked", "delivered"], "5", 0, ""),
        (["acked", "stored"], "5", 1, "not confirmed within 5 s by 1 of 2: d-2 (stored)"),
        (["duplicate"], "5", 1, "not confirmed within 5 s by 1 of 1: d-1 (duplicate)"),
    ],
)
def test_send_exits_0_only_if_it_is_done(
    run: Run, admin: Admin, states: list[str], wait: str | None, code: int, remark: str
) -> None:
    admin.answers.append((200, pushed(*states)))
    ran = run("send", "--all", *(["--wait", wait] if wait else []), "1")
    assert ran.code == code
    assert ran.err == (f"pushdctl: {remark}\n" if remark else "")


@pytest.mark.parametrize("terminal", [True, False])
def test_send_says_that_it_waits_if_somebody_is_there(
    run: Run, admin: Admin, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    admin.answers.append((200, pushed("acked")))
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    told = run("send", "--device", "d-1", "--wait", "30", "1").err
    assert told == ("pushdctl: waiting up to 30 s for the acknowledgement\n" if terminal else "")


def test_send_counts_also_the_devices_beyond_the_receipts_shown(run: Run, admin: Admin) -> None:
    answer = pushed("acked")
    answer["counts"] = {"acked": 100, "stored": 3}
    admin.answers.append((200, answer))
    ran = run("send", "--all", "--wait", "1", "1")
    assert ran.code == 1
    assert "100 acked, 3 stored" in ran.out
    assert "by 3 of 103" in ran.err


def test_send_shows_receipts_and_json(run: Run, admin: Admin) -> None:
    admin.answers += [(200, pushed("stored", "refused"))] * 2
    assert run("send", "--all", "1").out == (
        "id m-1\nd-1  stored  seq 1\nd-2  refused  seq 2  full\n1 refused, 1 stored\n"
    )
    assert json.loads(run("send", "--all", "--json", "1").out) == pushed("stored", "refused")


def test_send_reads_standard_input(run: Run, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    admin.answers.append((200, pushed("stored")))
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"long": "text"}\n'))
    assert run("send", "--all", "-").code == 0
    assert admin.asked[0][2]["data"] == {"long": "text"}


def test_the_token_is_shown_to_the_daemon(run: Run, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"devices": [], "next": None, "connections": 0, "online": 0, "known": 0}
    admin.answers += [(200, page)] * 3
    run("devices")
    run("devices", "--admin-token", "from-flag", "--admin", admin.url.removeprefix("http://"))
    monkeypatch.setenv("PUSHD_ADMIN_TOKEN", "from-environment")
    run("devices")
    assert [headers.get("authorization") for headers in admin.headers] == [
        None,
        "Bearer from-flag",
        "Bearer from-environment",
    ]


@pytest.mark.parametrize(
    ("status", "content", "code", "expected"),
    [
        (400, {"error": {"code": "bad_request", "message": "to: missing"}}, 2, "to: missing"),
        (
            401,
            {"error": {"code": "unauthorized", "message": "who?"}},
            1,
            "who? (set --admin-token or PUSHD_ADMIN_TOKEN)",
        ),
        (503, {"error": {"code": "store_unavailable", "message": "no store"}}, 1, "no store"),
        (500, "<html>", 1, "URL answered with status 500: is it a pushd admin listener?"),
        (200, "<html>", 1, "URL answered something else than JSON: is it a pushd admin listener?"),
        (200, {"hello": 1}, 1, "URL gave an answer without id, counts, receipts: is it a pushd admin listener?"),
    ],
)
def test_what_the_daemon_says_against_it_is_one_line(
    run: Run, admin: Admin, status: int, content: str | dict[str, Any], code: int, expected: str
) -> None:
    admin.answers.append((status, content))
    ran = run("send", "--all", "1")
    assert (ran.code, ran.out, ran.err) == (code, "", f"pushdctl: {expected.replace('URL', admin.url)}\n")


@pytest.mark.parametrize(
    "argv", [("devices",), ("tail", "status"), ("tail", "status", "-f"), ("tail", "status", "-f", "--after", "$")]
)
def test_no_daemon_is_one_line_and_exit_code_1(run: Run, argv: tuple[str, ...]) -> None:
    ran = run(*argv, "--admin", "http://127.0.0.1:9")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("pushdctl: no daemon answers at http://127.0.0.1:9: ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("url", ["http://a:b", "ftp://127.0.0.1", "http://", "http://[x"])
def test_an_admin_url_that_is_none_is_one_line(run: Run, url: str) -> None:
    ran = run("devices", "--admin", url)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)


def entry(number: int, **fields: str) -> dict[str, Any]:
    return {"id": str(number), "fields": {"device": "d-1", **fields}}


def test_tail_reads_page_by_page(run: Run, admin: Admin) -> None:
    script: list[tuple[int, str | dict[str, Any]]] = [
        (200, {"entries": [entry(1), entry(2)], "next": "2"}),
        (200, {"entries": [entry(3)], "next": "3"}),
        (200, {"entries": [], "next": "3"}),
    ]
    admin.answers += script * 2
    assert run("tail", "uplink", "--after", "0").out == "1  device=d-1\n2  device=d-1\n3  device=d-1\n"
    lines = run("tail", "uplink", "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == [entry(1), entry(2), entry(3)]
    assert [path for _, path, _ in admin.asked[:3]] == [
        f"/v1/streams/uplink?after={after}&limit=1000" for after in ("0", "2", "3")
    ]


def test_tail_gives_a_device_no_hold_on_the_terminal(run: Run, admin: Admin) -> None:
    page = {"entries": [entry(1, data='"\x1b[2J"', event="é ü")], "next": None}
    admin.answers.append((200, page))
    out = run("tail", "uplink").out
    assert "\x1b" not in out
    assert "event=é ü" in out


def events(*entries: dict[str, Any]) -> str:
    text = "retry: 2000\n\n: still here\n\n"
    return text + "".join(f"id: {one['id']}\ndata: {json.dumps(one['fields'])}\n\n" for one in entries)


GONE: tuple[int, str | dict[str, Any]] = (410, {"error": {"code": "gone", "message": "that is all"}})


def test_tail_follow_takes_up_a_lost_connection_after_the_last_entry(run: Run, admin: Admin) -> None:
    admin.answers += [
        (200, events(entry(1), entry(2))),
        (503, {"error": {"code": "store_unavailable", "message": "no store"}}),
        (200, events()),
        (200, events(entry(3))),
        GONE,
    ]
    ran = run("tail", "uplink", "--follow", "--json")
    assert [json.loads(line)["id"] for line in ran.out.splitlines()] == ["1", "2", "3"]
    assert [path.partition("?")[2] for _, path, _ in admin.asked] == [
        "after=",
        "after=2",
        "after=2",
        "after=2",
        "after=3",
    ]
    assert all(headers["accept"] == "text/event-stream" for headers in admin.headers)
    assert ran.code == 1
    assert ran.err.splitlines()[1] == "pushdctl: connection lost (no store); trying again in 0.0 s"
    assert ran.err.splitlines()[-1] == "pushdctl: that is all"


def test_tail_follow_from_now_on_loses_nothing_between_connections(run: Run, admin: Admin) -> None:
    admin.answers += [(200, {"entries": [], "next": "7"}), (200, events()), (200, events(entry(8))), GONE]
    ran = run("tail", "status", "--follow", "--after", "$")
    assert ran.out == "8  device=d-1\n"
    assert [path.partition("?")[2] for _, path, _ in admin.asked] == [
        "after=%24&limit=1",
        "after=7",
        "after=7",
        "after=8",
    ]


def record(device: str, **more: Any) -> dict[str, Any]:
    fields = {"online": True, "node": "n", "conn": "c", "epoch": 1, "since": 0.0, "seen": 0.0, "inbox": 2, "topics": []}
    return {"device": device, **fields, **more}


def test_devices_counts_and_lists_all_pages(run: Run, admin: Admin) -> None:
    totals = {"connections": 3, "online": 2, "known": 9}
    script: list[tuple[int, str | dict[str, Any]]] = [
        (200, {"devices": [record("a", topics=["t", "u"])], "next": "a", **totals}),
        (200, {"devices": [record("longer", online=False, node="")], "next": None, **totals}),
    ]
    admin.answers += script * 2
    assert run("devices", "--online").out.splitlines() == [
        "connections 3, distinct devices online 2, known 9",
        "DEVICE  STATE    INBOX  SEEN  NODE  TOPICS",
        "a       online   2      -     n     t,u",
        "longer  offline  2      -     -     -",
    ]
    assert [path for _, path, _ in admin.asked] == [
        "/v1/devices?online=true&after=&limit=1000",
        "/v1/devices?online=true&after=a&limit=1000",
    ]
    shown = json.loads(run("devices", "--json").out)
    assert [one["device"] for one in shown["devices"]] == ["a", "longer"]
    assert {name: shown[name] for name in totals} == totals


def test_devices_shows_one(run: Run, admin: Admin) -> None:
    admin.answers += [(200, record("d@1"))] * 2
    out = run("devices", "d@1").out
    assert "online   yes\n" in out
    assert "topics   -\n" in out
    assert json.loads(run("devices", "d@1", "--json").out) == record("d@1")
    assert admin.asked[0][1] == "/v1/devices/d%401"


def test_kick_says_whether_there_was_anybody(run: Run, admin: Admin) -> None:
    admin.answers += [(200, {"device": "d-1", "kicked": True}), (200, {"device": "d-1", "kicked": False})]
    assert run("kick", "d-1", "--reason", "go away") == Ran(0, "d-1 was kicked\n", "")
    assert run("kick", "d-1") == Ran(1, "d-1 was not connected\n", "")
    assert admin.asked[0][:2] == ("DELETE", "/v1/devices/d-1?reason=go+away")


def test_reconcile_prints_who_is_away(run: Run, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    admin.answers += [(200, {"id": "r", "offline": ["a", "c"], "ts": 1.0})] * 4
    assert run("reconcile", "a", "b", "c") == Ran(0, "a\nc\n", "pushdctl: 2 of 3 devices are not alive\n")
    Path("ids").write_text("a\n\n b \nc")
    assert run("reconcile", "--file", "ids").out == "a\nc\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb\nc\n"))
    assert run("reconcile", "--file", "-").err == "pushdctl: 2 of 3 devices are not alive\n"
    assert json.loads(run("reconcile", "--json", "a", "b", "c").out)["offline"] == ["a", "c"]
    assert all(asked == ("POST", "/v1/reconcile", {"devices": ["a", "b", "c"]}) for asked in admin.asked)
    assert run("reconcile", "--file", "none").code == 2


# --- processes --------------------------------------------------------------------------------------------------------


def test_ctrl_c_is_quiet(admin: Admin) -> None:
    admin.answers += [(200, events(entry(1)))] + [(200, events())] * 200
    with process("tail", "uplink", "--follow") as tail:
        assert tail.stdout is not None
        assert tail.stdout.readline() == "1  device=d-1\n"
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=PATIENCE)
    assert (tail.returncode, out) == (130, "")
    assert "Traceback" not in err


def program(text: str) -> "subprocess.CompletedProcess[str]":
    """Runs a Python program."""
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=PATIENCE)


def test_an_early_ctrl_c_is_quiet_too() -> None:
    """While the modules are still being read, which takes a moment on a slow machine."""
    ran = program("""
import sys
class Impatient:
    def find_spec(self, name, *rest):
        if name == "httpx":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Impatient())
from pushd.cli import main
sys.exit(main(["tail", "uplink"]))
""")
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


@pytest.mark.parametrize(("missing", "argv"), [("httpx", ["devices"]), ("pydantic", ["check-config"])])
def test_without_the_extra_it_says_what_to_install(missing: str, argv: list[str]) -> None:
    """`pip install engineio-trio` brings the command, but not what it needs."""
    ran = program(f"import sys; sys.modules[{missing!r}] = None; from pushd.cli import main; sys.exit(main({argv}))")
    told = f"pushdctl: {missing} is not installed: pip install 'engineio-trio[pushd]' brings it\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", told)


def test_a_command_that_asks_a_daemon_loads_nothing_of_the_daemon() -> None:
    ran = program("""
import sys
from pushd.cli import main
assert main(["kick", "no id"]) == 2
print(*sorted({"engineio_trio", "hypercorn", "pydantic", "pushd.config", "redis"} & set(sys.modules)))
""")
    assert (ran.returncode, ran.stdout) == (0, "\n")


def test_a_reader_that_goes_away_is_no_error(admin: Admin) -> None:
    page = {"entries": [entry(number, data="x" * 500) for number in range(1000)], "next": "999"}
    admin.answers += [(200, page)] * 3 + [(200, {"entries": [], "next": "999"})]
    with process("tail", "uplink") as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        tail.stdout.readline()
        tail.stdout.close()
        err = tail.stderr.read()
        code = tail.wait(timeout=PATIENCE)
    assert (code, err) == (0, "")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[str]:
    """A real daemon on its embedded store; gives the URL of its admin interface."""
    ready = tmp_path / "ready.json"
    flags = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", str(ready))
    with (tmp_path / "log").open("w") as log, process("serve", *flags, stdout=log, stderr=log) as serve:
        try:
            deadline = time.monotonic() + PATIENCE
            while not ready.exists():
                assert serve.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    serve.wait(timeout=0.05)
            yield json.loads(ready.read_text())["admin"]
        finally:
            serve.terminate()
        assert serve.wait(timeout=PATIENCE) == 0


def test_the_commands_and_a_real_daemon_understand_each_other(
    run: Run, daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHD_ADMIN", daemon)
    sent = run("send", "--device", "d-1", "--id", "m-1", '{"a": 1}')
    assert sent == Ran(0, "id m-1\nd-1  stored  seq 1\n", "")
    assert run("send", "--device", "d-1", "--id", "m-1", "--wait", "0.2", '{"a": 1}').code == 1
    assert run("send", "--device", "a b", "1").code == 2
    (receipt, *_) = (json.loads(line) for line in run("tail", "receipt", "--json").out.splitlines())
    assert (receipt["fields"]["device"], receipt["fields"]["state"]) == ("d-1", "stored")
    assert run("devices").out.startswith("connections 0, distinct devices online 0, known 1\nDEVICE")
    assert json.loads(run("devices", "d-1", "--json").out)["inbox"] == 1
    assert run("devices", "nobody").code == 1
    assert run("kick", "d-1").code == 1
    assert run("reconcile", "d-1", "d-2").out == "d-1\nd-2\n"
    with process("tail", "receipt", "--follow", "--json", "--after", receipt["id"]) as tail:
        assert tail.stdout is not None
        run("send", "--device", "d-3", "--id", "m-2", "1")
        followed = [json.loads(tail.stdout.readline())["fields"]["device"]]
        while followed[-1] != "d-3":
            followed.append(json.loads(tail.stdout.readline())["fields"]["device"])
        tail.send_signal(signal.SIGINT)
        tail.communicate(timeout=PATIENCE)
    assert tail.returncode == 130
