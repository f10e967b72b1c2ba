"""Error replies: redis-py's exception for each, and which of them mean that the store cannot be used now.

What only says that the server, its memory, its replicas or our rights are not as they must be is no matter for whoever
sent the command: it becomes StoreUnavailable. What is left (WRONGTYPE, NOSCRIPT, BUSYGROUP ...) stays a ResponseError,
and so do a cluster's MOVED, ASK and TRYAGAIN, which `cluster` follows.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from redis import exceptions
from redis.exceptions import ResponseError

from pushd.errors import StoreUnavailable

Argument: TypeAlias = str | bytes | int | float
Command: TypeAlias = Sequence[Argument]  # its name first
Reply: TypeAlias = Any  # bytes, int, float, bool, None, ResponseError; lists and dicts of those


class Misconfigured(StoreUnavailable):
    """The server and what we were told of it do not fit: time alone will not mend it, a person must."""


class AccessDenied(Misconfigured):
    """The server says no to our password, or to a command. Nothing was executed."""


_CLASSES: Final[Mapping[str, type[ResponseError]]] = {
    "ASK": exceptions.AskError,
    "CLUSTERDOWN": exceptions.ClusterDownError,
    "CROSSSLOT": exceptions.ClusterCrossSlotError,
    "MASTERDOWN": exceptions.MasterDownError,
    "MOVED": exceptions.MovedError,
    "NOPERM": exceptions.NoPermissionError,
    "NOSCRIPT": exceptions.NoScriptError,
    "OOM": exceptions.OutOfMemoryError,
    "READONLY": exceptions.ReadOnlyError,
    "TRYAGAIN": exceptions.TryAgainError,
}

# What a person should know about a server that answers so.
_AWAY: Final[Mapping[str, str]] = {
    "BUSY": "a script keeps it busy",
    "CLUSTERDOWN": "the cluster is down",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "MISCONF": "it cannot save to its disk",
    "NOREPLICAS": "too few replicas follow it",
    "OOM": "its memory is full",
    "READONLY": "it is a replica",
    "UNBLOCKED": "it has just become a replica",
}

_DENIED: Final = {"NOPERM", "NOAUTH", "WRONGPASS"}

# After these the connection itself is of no use: a new one may find the right server, or the right moment.
UNFIT: Final = {"LOADING", "MASTERDOWN", "NOAUTH", "READONLY", "UNBLOCKED"}

# The commands of ours, by the category under which an ACL grants them.
_CATEGORIES: Final[Mapping[str, str]] = {
    name: category
    for category, names in {
        "@admin": "CONFIG",
        "@connection": "AUTH CLIENT ECHO HELLO PING SELECT",
        "@hash": "HDEL HEXISTS HGET HGETALL HINCRBY HLEN HMGET HSCAN HSET HSETNX",
        "@keyspace": "DEL EXISTS EXPIRE PERSIST PEXPIRE PTTL SCAN TTL TYPE UNLINK",
        "@list": "LINDEX LLEN LPOP LPUSH LRANGE LREM LSET LTRIM RPOP RPUSH",
        "@pubsub": "PUBLISH SUBSCRIBE UNSUBSCRIBE",
        "@scripting": "EVAL EVALSHA SCRIPT",
        "@set": "SADD SCARD SISMEMBER SMEMBERS SREM SSCAN",
        "@slow": "ASKING CLUSTER INFO ROLE WAIT WAITAOF",
        "@sortedset": "ZADD ZCARD ZCOUNT ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZREM ZREMRANGEBYSCORE ZSCORE",
        "@stream": "XACK XADD XAUTOCLAIM XCLAIM XDEL XGROUP XINFO XLEN XPENDING XRANGE XREAD XREADGROUP XREVRANGE",
        "@string": "GET INCR INCRBY MGET MSET PSETEX SET SETEX",
    }.items()
    for name in names.split()
}


def error_reply(text: str) -> ResponseError:
    """The exception for an error reply, with its code as `status_code` and, but for MOVED and ASK, its whole text."""
    code, _, rest = text.partition(" ")
    if code in ("MOVED", "ASK"):
        return _CLASSES[code](rest, status_code=code)
    return _CLASSES.get(code, ResponseError)(text, status_code=code)


def unavailable(error: ResponseError, command: Command) -> StoreUnavailable | None:
    """What to raise in place of an error reply that is not the matter of who sent the command; else None."""
    code, text = str(error.status_code), str(error)
    if code in _DENIED or (code == "ERR" and "can't run this command" in text) or "ACL failure" in text:
        return AccessDenied(_denied(code, text, command))
    if code in _AWAY:
        return StoreUnavailable(f"{_AWAY[code]} ({text if text.startswith(code) else f'{code} {text}'})")
    return None


def _denied(code: str, text: str, command: Command) -> str:
    if code in ("NOAUTH", "WRONGPASS"):
        return f"it refuses our user or password ({text})"
    name = _shown(command[0]).upper()
    said = re.search(r"'(\w+)[^']*' command", text)  # a script's error names the command inside it, on some servers
    where = f" in a script ({name})" if "script" in text else ""
    name = said[1].upper() if said is not None else "a command" if where else name
    known = f" (category {_CATEGORIES[name]})" if name in _CATEGORIES else ""
    return f"its ACL does not let us run {name}{known}{where}; grant it with ACL SETUSER ({text})"


def _shown(argument: Argument) -> str:
    return argument.decode(errors="replace") if isinstance(argument, bytes) else str(argument)
