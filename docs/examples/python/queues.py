"""Where pushd's queues are: the connection, and the names of the streams."""

import os
import zlib

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.retry import Retry

URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
CLUSTER = os.environ.get("REDIS_CLUSTER") == "1"
PREFIX = os.environ.get("PUSHD_STORE__PREFIX", "pushd")  # the same as pushd's
PARTITIONS = int(os.environ.get("PUSHD_STORE__PARTITIONS", "1"))  # the same as pushd's


def connect():
    """A client that reports a lost connection instead of asking again: see consume.py for why."""
    client = RedisCluster if CLUSTER else Redis
    never = Retry(NoBackoff(), 0)
    return client.from_url(URL, decode_responses=True, socket_timeout=10, retry=never)


def key(stream, bucket=0):
    return f"{PREFIX}:{{{bucket}}}:{stream}"


def bucket_of(device):
    return zlib.crc32(device.encode()) % PARTITIONS
