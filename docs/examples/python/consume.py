"""Reads one of pushd's queues, and does something once for each entry.

    python consume.py uplink [BUCKET]

Any number of these share the work of a GROUP. Each has a NAME, which it keeps when it is started again.
"""

import json
import os
import socket
import sqlite3
import sys
import time
import traceback

from redis import RedisError

import queues

GROUP = os.environ.get("GROUP", "billing")
NAME = os.environ.get("NAME", socket.gethostname())
IDLE = int(os.environ.get("IDLE", "60000"))  # ms after which an entry of somebody who is silent is ours
COUNT = 100  # entries at once; they must all be done well within IDLE
BLOCK = 2000  # ms to wait for new ones; less than the client's socket_timeout
TRIES = 5
IDENTITY = {
    "uplink": ("id",),
    "status": ("device", "epoch", "event"),
    "receipt": ("id", "device", "state", "seq"),
    "reconciled": ("id",),
}

database = sqlite3.connect(os.environ.get("DATABASE", "service.db"))
database.execute("CREATE TABLE IF NOT EXISTS seen (identity TEXT PRIMARY KEY)")


def handle(stream, fields):
    """The service's own work, in one transaction with the memory that it was done.

    If a thing that it needs is away, wait here: an entry that fails TRIES times is put aside.
    """
    identity = json.dumps([stream, *(fields[name] for name in IDENTITY[stream])])
    with database:
        new = database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (identity,)).rowcount
        if new:
            print(json.dumps(fields), flush=True)  # your statements, in this transaction


class Consumer:
    """One consumer of one stream of one bucket."""

    def __init__(self, redis, stream, bucket):
        self.redis = redis
        self.stream = stream
        self.key = queues.key(stream, bucket)

    def run(self):
        """Whatever goes wrong with Redis: begin again, at what we have and do not know of."""
        while True:
            try:
                self.consume()
            except RedisError as error:
                print(error, file=sys.stderr)
                time.sleep(1)

    def consume(self):
        self.make_group()
        last = "0"  # first our own: taken before a crash, or in an answer that was lost
        while entries := self.read(last):
            self.deal_again(entries)
            last = entries[-1][0]
        next_claim = 0.0
        while True:
            if time.monotonic() >= next_claim:
                self.claim()
                next_claim = time.monotonic() + IDLE / 1000
            for id, fields in self.read(">"):
                self.deal(id, fields)

    def make_group(self):
        try:  # "0": from the oldest entry there is; "$" would be: from now on
            self.redis.xgroup_create(self.key, GROUP, id="0", mkstream=True)
        except RedisError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def read(self, after):
        found = self.redis.xreadgroup(GROUP, NAME, {self.key: after}, count=COUNT, block=BLOCK)
        return found[0][1] if found else []

    def claim(self):
        """Take over what others, or we, have left lying."""
        start = "0-0"
        while True:
            start, entries, *_ = self.redis.xautoclaim(self.key, GROUP, NAME, IDLE, start, count=COUNT)
            self.deal_again(entries)
            if start == "0-0":
                return

    def deal_again(self, entries):
        """Entries that were tried before; one that never works is put aside, or pushd could never trim the stream."""
        for id, fields in entries:
            pending = self.redis.xpending_range(self.key, GROUP, id, id, 1)
            if not fields:  # somebody has deleted it
                self.redis.xack(self.key, GROUP, id)
            elif pending and pending[0]["times_delivered"] > TRIES:
                self.redis.xadd(f"{GROUP}:dead", {"stream": self.key, "entry": id, "fields": json.dumps(fields)})
                self.redis.xack(self.key, GROUP, id)
            else:
                self.deal(id, fields)

    def deal(self, id, fields):
        try:
            handle(self.stream, fields)
        except Exception:  # it stays pending, and `claim` brings it again
            traceback.print_exc()
        else:
            self.redis.xack(self.key, GROUP, id)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [stream, *bucket] if stream in IDENTITY:
            Consumer(queues.connect(), stream, *bucket or ["0"]).run()
        case _:
            sys.exit(__doc__)
