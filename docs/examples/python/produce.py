"""Tells pushd what to do.

    python produce.py push device:kitchen-1 '{"light": "on"}' order-17
    python produce.py reconcile audit-3 kitchen-1 kitchen-2

Prints the id of the entry.
"""

import json
import sys
import time

from redis import RedisError

import queues

PATIENCE = 30.0  # seconds


def push(redis, to, data, id, event="push"):
    """Put a message on its way. Choose the id first: repeated with the same id, it is still one message."""
    kind, _, name = to.partition(":")
    bucket = queues.bucket_of(name) if kind == "device" else 0
    fields = {"to": to, "event": event, "data": json.dumps(data), "id": id}
    return add(redis, queues.key("push", bucket), fields)


def reconcile(redis, id, devices):
    """Ask which of these devices are not online. The answer comes in `reconciled`, with the same id."""
    return add(redis, queues.key("reconcile"), {"id": id, "devices": json.dumps(devices)})


def add(redis, key, fields):
    """XADD until it is known to have worked. It may have worked before that: hence the id."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return redis.xadd(key, fields)  # no maxlen: pushd removes what it has done
        except RedisError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["push", to, data, id]:
            print(push(queues.connect(), to, json.loads(data), id))
        case ["reconcile", id, *devices]:
            print(reconcile(queues.connect(), id, devices))
        case _:
            sys.exit(__doc__)
