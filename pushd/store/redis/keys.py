"""The names of all keys: `<prefix>:{<bucket>}:<what>`. Keys of one bucket share a slot, so one script may use them all.

docs/redis.md says what each holds. A device belongs to the bucket crc32(id) % partitions.
"""

import zlib
from collections.abc import Sequence

from pushd.model import Stream


class Bucket:
    """The keys of one bucket, and of the devices in it."""

    __slots__ = (
        "_alone",
        "_tag",
        "alive",
        "all",
        "expiries",
        "floor",
        "legal",
        "number",
        "receipt",
        "status",
        "streams",
        "uplink",
        "waiting",
    )

    def __init__(self, prefix: str, number: int, alone: bool) -> None:
        self.number = number
        self._alone = alone
        self._tag = tag = f"{prefix}:{{{number}}}:"
        self.alive = f"{tag}hb"  # zset: device that is bound -> when it was last heard of, ms
        self.all = f"{tag}all"  # zset, scores 0: known devices, for paging
        self.expiries = f"{tag}ttl"  # zset: device with waiting messages -> the earliest of their ends, us (or earlier)
        self.waiting = f"{tag}waiting"  # number of messages in all inboxes
        self.floor = f"{tag}floor"  # hash: highest epoch and seq of devices that were forgotten
        self.legal = f"{tag}legal"  # hash: device that may come in -> its token
        self.streams = {stream: f"{tag}{stream.value}" for stream in Stream}
        self.status = self.streams[Stream.STATUS]
        self.receipt = self.streams[Stream.RECEIPT]
        self.uplink = self.streams[Stream.UPLINK]

    def device(self, device: str) -> str:
        """Hash: what is known of a device."""
        return f"{self._tag}d:{device}"

    def inbox(self, device: str) -> str:
        """List: its waiting messages."""
        return f"{self._tag}q:{device}"

    def marks(self, device: str) -> str:
        """Zset: push ids that it has had -> their seq."""
        return f"{self._tag}x:{device}"

    def topic(self, topic: str) -> str:
        """Zset, scores 0: devices of a topic, for paging."""
        return f"{self._tag}t:{topic}"

    def bound(self, incarnation: str) -> str:
        """Set: devices that an incarnation holds, and some that it held."""
        return f"{self._tag}n:{incarnation}"

    def entry(self, id: str) -> str:
        """The name of an entry of one of its streams, among those of all buckets."""
        return id if self._alone else f"{self.number}:{id}"


class Keys:
    """All keys of a deployment."""

    def __init__(self, prefix: str, partitions: int) -> None:
        self.buckets: Sequence[Bucket] = [Bucket(prefix, number, partitions == 1) for number in range(partitions)]
        self.meta = f"{prefix}:meta"  # hash: what the deployment was set up with
        self.nodes = f"{prefix}:nodes"  # zset: incarnation -> end of its lease, ms; or minus the time of its death
        self.channels = f"{prefix}:ctl:"  # before an incarnation: the channel that it listens to

    def of(self, device: str) -> Bucket:
        """The bucket of a device."""
        buckets = self.buckets
        return buckets[0] if len(buckets) == 1 else buckets[zlib.crc32(device.encode()) % len(buckets)]

    def parts(self, devices: Sequence[str], most: int) -> list[tuple[Bucket, Sequence[int]]]:
        """The places of devices in the list, by bucket, at most so many together: what one call can deal with."""
        if len(self.buckets) == 1:
            places: Sequence[int] = range(len(devices))
            return [(self.buckets[0], places[start : start + most]) for start in range(0, len(devices), most)]
        by_bucket: dict[Bucket, list[int]] = {}
        for place, device in enumerate(devices):
            by_bucket.setdefault(self.of(device), []).append(place)
        return [
            (bucket, places[start : start + most])
            for bucket, places in by_bucket.items()
            for start in range(0, len(places), most)
        ]
