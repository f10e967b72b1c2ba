"""The commands that talk to a running daemon: send, tail, devices, kick, reconcile. Each returns its exit code.

Results go to standard output (with `--json` for programs), remarks to standard error.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pushd import jsonbytes
from pushd.cli.admin_client import AdminClient
from pushd.model import DEVICE_ID, ReceiptState

HINT_MAX = 60  # characters of the user's own words that are worth repeating
CONFIRMED = (ReceiptState.ACKED, ReceiptState.DELIVERED)


class WrongUsage(Exception):
    """An argument makes no sense. The text says which and why."""


def say(line: str) -> None:
    """One line of result, at once, so that a reader of a pipe sees it when it happens."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def remark(line: str) -> None:
    """One line for the person, beside the results."""
    sys.stderr.write(f"pushdctl: {line}\n")
    sys.stderr.flush()


def meanwhile(line: str) -> None:
    """A remark on what takes its time, for somebody who sits before it."""
    if sys.stderr.isatty():
        remark(line)


def send(client: AdminClient, args: argparse.Namespace) -> int:
    """Push one message and show what became of it."""
    body = {"to": _target(args), "event": args.event, "data": _json_argument(args.data)}
    for name in ("id", "ttl", "qos", "wait"):
        if getattr(args, name) is not None:
            body[name] = getattr(args, name)
    if args.wait is not None:
        meanwhile(f"waiting up to {args.wait:g} s for the acknowledgement")
    answer = client.ask("POST", "/v1/push", ("id", "counts", "receipts"), body=body, wait=args.wait or 0.0)
    counts, receipts = answer["counts"], answer["receipts"]
    if args.json:
        say(_compact(answer))
    else:
        say(f"id {answer['id']}")
        for receipt in receipts:
            reason = f"  {_text(receipt['reason'])}" if receipt["reason"] else ""
            say(f"{receipt['device']}  {receipt['state']}  seq {receipt['seq']}{reason}")
        if not receipts:
            remark("no device was meant: the topic has no members, or no device is known yet")
        elif sum(counts.values()) > 1:
            say(", ".join(f"{number} {state}" for state, number in sorted(counts.items())))
    return _verdict(counts, receipts, args.wait)


def _verdict(counts: dict[str, int], receipts: Sequence[dict[str, Any]], wait: float | None) -> int:
    """0 if every device has what was asked for: the message stored, or (with --wait) confirmed."""
    if wait is None:
        refused = counts.get(ReceiptState.REFUSED, 0)
        if refused:
            remark(f"refused for {refused} of {sum(counts.values())} devices")
        return 1 if refused else 0
    missing = sum(counts.values()) - sum(counts.get(state, 0) for state in CONFIRMED)
    if not missing:
        return 0
    names = [f"{receipt['device']} ({receipt['state']})" for receipt in receipts if receipt["state"] not in CONFIRMED]
    more = f" and {missing - 5} more" if missing > 5 else ""
    remark(f"not confirmed within {wait:g} s by {missing} of {sum(counts.values())}: {', '.join(names[:5])}{more}")
    return 1


def tail(client: AdminClient, args: argparse.Namespace) -> int:
    """Show the entries of a stream; with --follow, those to come too."""
    if args.follow:
        meanwhile(f"following {args.stream} at {client.url}; Ctrl-C ends it")
        for entry in client.follow(args.stream, args.after, remark):
            _show_entry(entry, args.json)
        return 0
    for page in client.pages(f"/v1/streams/{args.stream}", "entries", {"after": args.after}):
        for entry in page["entries"]:
            _show_entry(entry, args.json)
    return 0


def _show_entry(entry: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say(_compact(entry))
    else:
        say(f"{entry['id']}  " + "  ".join(f"{name}={_text(value)}" for name, value in entry["fields"].items()))


def devices(client: AdminClient, args: argparse.Namespace) -> int:
    """Count and list the devices, or show one."""
    if args.id is not None:
        record = client.ask("GET", _path_of(args.id), ("device",))
        if args.json:
            say(_compact(record))
        else:
            _show_record(record)
        return 0
    online: dict[str, str | int] = {"online": "true"} if args.online else {}
    pages = list(client.pages("/v1/devices", "devices", online))
    records = [record for page in pages for record in page["devices"]]
    totals = {name: pages[-1][name] for name in ("connections", "online", "known")}
    if args.json:
        say(_compact({**totals, "devices": records}))
        return 0
    say("connections {connections}, distinct devices online {online}, known {known}".format(**totals))
    if records:
        _show_table(records)
    return 0


def _show_record(record: dict[str, Any]) -> None:
    for name, value in record.items():
        if name in ("since", "seen"):
            value = _moment(value)
        elif isinstance(value, list):
            value = ", ".join(value) or "-"
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        say(f"{name:<8} {value if value != '' else '-'}")


def _show_table(records: Iterable[dict[str, Any]]) -> None:
    rows = [("DEVICE", "STATE", "INBOX", "SEEN", "NODE", "TOPICS")]
    for record in records:
        state = "online" if record["online"] else "offline"
        topics = ",".join(record["topics"]) or "-"
        rows.append(
            (record["device"], state, str(record["inbox"]), _moment(record["seen"]), record["node"] or "-", topics)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def kick(client: AdminClient, args: argparse.Namespace) -> int:
    """Disconnect a device."""
    query = {} if args.reason is None else {"reason": args.reason}
    answer = client.ask("DELETE", _path_of(args.id), ("kicked",), query)
    if args.json:
        say(_compact(answer))
    else:
        say(f"{args.id} was {'kicked' if answer['kicked'] else 'not connected'}")
    return 0 if answer["kicked"] else 1


def reconcile(client: AdminClient, args: argparse.Namespace) -> int:
    """Print those of the given devices that are not alive."""
    wanted = _ids(args)
    answer = client.ask("POST", "/v1/reconcile", ("offline",), body={"devices": wanted}, wait=60.0)
    if args.json:
        say(_compact(answer))
        return 0
    for device in answer["offline"]:
        say(device)
    remark(f"{len(answer['offline'])} of {len(wanted)} devices are not alive")
    return 0


def _ids(args: argparse.Namespace) -> list[str]:
    if args.file is None:
        return list(args.ids)
    try:
        text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"--file {args.file} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _path_of(device: str) -> str:
    if not DEVICE_ID.fullmatch(device):
        raise WrongUsage(f"{device!r} is no device id ({DEVICE_ID.pattern})")
    return f"/v1/devices/{quote(device, safe='')}"


def _target(args: argparse.Namespace) -> str:
    if args.all:
        return "all"
    return f"device:{args.device}" if args.device is not None else f"topic:{args.topic}"


def _json_argument(text: str) -> Any:
    try:
        if text == "-":
            text = sys.stdin.read()
        return jsonbytes.parse(text)
    except ValueError as error:
        hint = f"; a text needs its quotes: '\"{text}\"'" if text.isalnum() and len(text) <= HINT_MAX else ""
        raise WrongUsage(f"the message must be JSON ({error}){hint}") from error


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _text(value: str) -> str:
    """A device's text as it is, unless it could move the cursor of whoever looks."""
    return value if value.isprintable() else json.dumps(value)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"


COMMANDS = {"send": send, "tail": tail, "devices": devices, "kick": kick, "reconcile": reconcile}


def run(args: argparse.Namespace) -> int:
    """Run the command that was typed. Raises CommandFailed or WrongUsage."""
    with AdminClient(args.admin, args.admin_token) as client:
        return COMMANDS[args.command](client, args)
