"""The command `pushdctl`: what may be typed, and the commands that need no running daemon.

Exit codes: 0 it is done; 1 it could not be done (a port in use, no daemon there, a push refused); 2 wrong usage or
configuration; 130 interrupted.
"""

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushd.cli import commands
from pushd.cli.admin_client import DEFAULT_URL, CommandFailed
from pushd.cli.commands import WrongUsage, remark, say
from pushd.errors import BadRequest, ConfigError
from pushd.model import Stream

if TYPE_CHECKING:
    from pushd.config import Loaded

_DESCRIPTION = """\
pushd knows which device is online, and carries messages between devices and services without losing them.

`pushdctl serve` is the daemon; send, tail, devices, kick and reconcile talk to a running one; check-config,
show-config and token need none. Every command explains itself: pushdctl send --help
"""
_EXIT_CODES = """\
exit codes: 0 done; 1 could not be done; 2 wrong usage or configuration; 130 interrupted
"""
_SERVE = """\
Run the daemon until SIGTERM or Ctrl-C, which end it cleanly (exit code 0). SIGHUP reads the certificate again.

Without a configuration it keeps its state in ./pushd.db, lets any program on this machine be any device
(127.0.0.1:8780), and can be managed from this machine (127.0.0.1:8781).

settings: the defaults, then the file, then PUSHD_* variables (PUSHD_STORE__URL), then these flags.
"""
_SERVE_EXAMPLES = """\
examples:
  pushdctl serve
  pushdctl serve --config pushd.toml --listen 0.0.0.0:8780
  PUSHD_AUTH__HMAC__SECRET=... pushdctl serve --auth hmac --store sqlite:////var/lib/pushd/pushd.db
  pushdctl serve --store redis://127.0.0.1:6379/0 --workers 4

exit codes: 0 stopped by a signal; 1 it cannot run (a port is in use, another pushd has the store's file, the file is
damaged); 2 wrong usage or configuration, before any port is bound, or a store that can never be right
"""
_SEND_EXAMPLES = """\
examples:
  pushdctl send --device kitchen-1 '{"light": "on"}'
  pushdctl send --topic lamps --event dim --ttl 60 0.5
  pushdctl send --device kitchen-1 --wait 5 '"are you there?"'

exit codes: 0 stored (with --wait: every device has confirmed it); 1 refused, not confirmed in time, or no daemon there;
2 wrong usage. The same --id again sends nothing twice.
"""
_TAIL_EXAMPLES = """\
examples:
  pushdctl tail uplink                   what is kept, oldest first
  pushdctl tail status --follow          that, and what comes
  pushdctl tail uplink --follow --after '$' --json | your-program

With --follow a lost connection is taken up again after the last entry shown. Exit codes: 0 done; 1 no daemon there;
2 wrong usage; 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pushdctl` with these arguments (default: the process's own) and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except ConfigError as error:
        return _wrong_configuration(error, args)
    except (WrongUsage, BadRequest) as error:
        remark(str(error))
        return 2
    except CommandFailed as error:
        remark(str(error))
        return 1
    except BrokenPipeError:  # the reader of a pipe has had enough; nothing may be written to it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def serve(args: argparse.Namespace) -> int:
    """Run the daemon."""
    loaded = _read(args)
    from pushd.daemon import run  # the other commands start faster without it

    return run(loaded.config, args.ready_file)


def check_config(args: argparse.Namespace) -> int:
    """Say whether the daemon would start with this configuration; make the authenticator, bind nothing."""
    import trio

    from pushd.auth import open_authenticator

    config = _read(args).config

    async def make_authenticator() -> None:
        async with open_authenticator(config):
            pass

    trio.run(make_authenticator)
    if args.json:
        say(json.dumps({"ok": True, "problems": []}))
    else:
        say(f"good: devices on {config.devices.listen}, admin on {config.admin.listen}, auth {config.auth.kind}")
    return 0


def show_config(args: argparse.Namespace) -> int:
    """Print every setting that is in force, as TOML with its origin or as JSON."""
    from pushd.config.reference import as_toml, effective

    loaded = _read(args)
    say(json.dumps(effective(loaded.config)) if args.json else as_toml(loaded).rstrip())
    return 0


def token(args: argparse.Namespace) -> int:
    """Print a token for a device."""
    from pushd.auth import make_token

    topics = [topic for topic in (args.topics or "").split(",") if topic]
    text = make_token(_read(args).config, args.id, topics, args.ttl)
    say(json.dumps({"device": args.id, "topics": topics, "token": text}) if args.json else text)
    return 0


def _read(args: argparse.Namespace) -> "Loaded":
    from pushd.config import FLAGS, read  # the others start in less than half of the time without it

    flags: dict[str, Any] = {}
    for path, flag in FLAGS.items():
        value = getattr(args, flag.removeprefix("--"), None)
        if value is not None:
            flags[path] = value
    return read(args.config, os.environ, flags)


def _wrong_configuration(error: ConfigError, args: argparse.Namespace) -> int:
    if args.run is check_config and args.json:
        say(json.dumps({"ok": False, "problems": error.problems}))
        return 2
    count = len(error.problems)
    remark(f"the configuration has {count} mistake{'s' if count > 1 else ''}:")
    for problem in error.problems:
        sys.stderr.write(f"  {problem}\n")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pushdctl",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("engineio-trio"))
    add = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_daemon_commands(add)
    _add_client_commands(add)
    return parser


def _command(add: Any, name: str, summary: str, description: str = "", epilog: str = _EXIT_CODES) -> Any:
    return add.add_parser(
        name,
        help=summary,
        description=description or summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_daemon_commands(add: Any) -> None:
    parser = _command(add, "serve", "run the daemon", _SERVE, _SERVE_EXAMPLES)
    _add_settings(parser)
    parser.add_argument(
        "--ready-file",
        type=Path,
        metavar="FILE",
        help="write the bound addresses to FILE (JSON) once devices can connect",
    )
    parser.set_defaults(run=serve)

    parser = _command(add, "check-config", "say whether the daemon would start with this configuration")
    _add_settings(parser)
    _add_json(parser)
    parser.set_defaults(run=check_config)

    parser = _command(add, "show-config", "print every setting in force and where it came from, secrets as ***")
    _add_settings(parser)
    _add_json(parser)
    parser.set_defaults(run=show_config)

    text = "Print a token for a device, signed with the secret of [auth.hmac] in the configuration."
    example = (
        "example:\n  pushdctl token kitchen-1 --config pushd.toml --topics lamps,kitchen --ttl 86400\n\n" + _EXIT_CODES
    )
    parser = _command(add, "token", "make a token for a device (auth hmac)", text, example)
    parser.add_argument("id", metavar="ID", help="the device's id")
    parser.add_argument("--topics", metavar="A,B", help="topics that the device is a member of")
    parser.add_argument("--ttl", type=_seconds, metavar="S", help="seconds until it expires (default: never)")
    _add_config(parser)
    _add_json(parser)
    parser.set_defaults(run=token)


def _add_config(parser: Any) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the settings (docs/config.md)")


def _add_settings(parser: Any) -> None:
    _add_config(parser)
    parser.add_argument("--listen", metavar="HOST:PORT", help="where devices connect; port 0 picks a free one")
    parser.add_argument("--admin", metavar="HOST:PORT", help="where the admin interface is; port 0 picks a free one")
    parser.add_argument("--store", metavar="URL", help="sqlite:///FILE, or redis://HOST:PORT/DB and its kin")
    parser.add_argument("--auth", metavar="KIND", help="open, static, hmac, http, store or custom")
    parser.add_argument("--workers", metavar="N", help="processes that serve devices (more than 1: with Redis)")
    parser.add_argument("--node", metavar="NAME", help="this node's name in status entries and metrics")


def _add_json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _add_client_commands(add: Any) -> None:
    text = "Send a message to devices. Those that are away get it when they come back."
    parser = _command(add, "send", "send a message to devices", text, _SEND_EXAMPLES)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--device", metavar="ID", help="to this device")
    target.add_argument("--topic", metavar="NAME", help="to the members of a topic")
    target.add_argument("--all", action="store_true", help="to every known device")
    parser.add_argument("--event", default="push", help="the event's name at the device (default: push)")
    parser.add_argument("--id", metavar="ID", help="the message's id; a second one with this id is a duplicate")
    parser.add_argument("--ttl", type=_seconds, metavar="S", help="seconds that the message is kept")
    parser.add_argument(
        "--qos", type=int, choices=(0, 1), help="1: stored until acknowledged (default); 0: now or never"
    )
    parser.add_argument(
        "--wait", type=_seconds, metavar="S", help="wait up to S seconds for the devices' acknowledgements"
    )
    parser.add_argument("data", metavar="JSON", help="the message, or - to read it from standard input")
    _add_client(parser)

    text = "Show the entries of a stream, one line each.\n\nstreams: " + ", ".join(Stream)
    parser = _command(add, "tail", "show the entries of a stream", text, _TAIL_EXAMPLES)
    names = [stream.value for stream in Stream]  # argparse shows an enum's members as Python would
    parser.add_argument("stream", metavar="STREAM", choices=names, help="the stream's name")
    parser.add_argument(
        "--after", metavar="ID", default="", help="only entries after this id ($: only what comes from now)"
    )
    parser.add_argument("--follow", "-f", action="store_true", help="go on with what comes")
    _add_client(parser)

    parser = _command(add, "devices", "count and list devices, or show one")
    parser.add_argument("id", metavar="ID", nargs="?", help="show this device")
    parser.add_argument("--online", action="store_true", help="list only devices that are connected")
    _add_client(parser)

    parser = _command(add, "kick", "disconnect a device (1 if it is not connected)")
    parser.add_argument("id", metavar="ID", help="the device")
    parser.add_argument("--reason", metavar="TEXT", help="told to the device, and in the status stream")
    _add_client(parser)

    text = (
        "Print those of the given devices that are not alive, one per line. For a database that holds who is online:\n"
        "give it the ids that it thinks are, and mark what this prints as offline."
    )
    example = (
        "example:\n  psql -Atc 'select id from devices where online' | pushdctl reconcile --file -\n\n" + _EXIT_CODES
    )
    parser = _command(add, "reconcile", "print which of the given devices are not alive", text, example)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("ids", metavar="ID", nargs="*", default=[], help="device ids")
    source.add_argument("--file", metavar="FILE", help="file with one device id per line; - is standard input")
    _add_client(parser)


def _add_client(parser: Any) -> None:
    parser.add_argument(
        "--admin",
        metavar="URL",
        default=os.environ.get("PUSHD_ADMIN", DEFAULT_URL),
        help=f"the daemon's admin listener (default: PUSHD_ADMIN, else {DEFAULT_URL})",
    )
    parser.add_argument(
        "--admin-token",
        metavar="T",
        default=os.environ.get("PUSHD_ADMIN_TOKEN", ""),
        help="its token; better PUSHD_ADMIN_TOKEN, because other users of this machine see arguments",
    )
    _add_json(parser)
    parser.set_defaults(run=commands.run)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, more than 0, not {text!r}")
    return value
