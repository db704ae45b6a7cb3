"""A slow link between two network namespaces: packets arrive late, in order, none is lost.

    unshare --net python -m bench.link TUN_DESCRIPTOR ADDRESS DELAY_S

One end is a TUN device that is handed in, open; the other is made here, in the namespace that
this process was started in, and gets the address. Between them packets are carried with a delay
each way. It prints `ready`, and ends with its standard input.

It stands in for netem, which many kernels lack. Both ends offload segmentation and checksums, so
that one read takes up to 64 KiB of a connection.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque

MTU = 1500
_READ_BYTES = 10 + 65_536  # struct virtio_net_hdr, and the largest packet
#: What may wait unread; a device drops what is more.
_QUEUE_PACKETS = 20_000
# linux/if_tun.h
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02


def open_tun(name: str, address: str) -> int:
    """Make a TUN device in this network namespace, bring it up; its descriptor.

    Raises: OSError, CalledProcessError without the right, or where the kernel has no TUN.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    for arguments in (
        ("link", "set", "lo", "up"),
        ("address", "add", f"{address}/24", "dev", name),
        ("link", "set", name, "mtu", str(MTU), "txqueuelen", str(_QUEUE_PACKETS), "up"),
    ):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return descriptor


class Direction:
    """One way of the link: what was read, until it is due to be written."""

    def __init__(self, source: int, target: int, delay_s: float) -> None:
        self.source = source
        self._target = target
        self._delay_s = delay_s
        self._waiting: deque[tuple[float, bytes]] = deque()

    def read(self) -> None:
        """Take all that the device has."""
        while True:
            try:
                packet = os.read(self.source, _READ_BYTES)
            except BlockingIOError:
                return
            self._waiting.append((time.monotonic() + self._delay_s, packet))

    def write_due(self) -> float:
        """Hand on what is due; the seconds until something else is, infinity for nothing."""
        now = time.monotonic()
        while self._waiting:
            due, packet = self._waiting[0]
            if due > now:
                return due - now
            self._waiting.popleft()
            os.write(self._target, packet)
        return float("inf")


def carry(one: int, other: int, delay_s: float) -> None:
    """Carry packets between two devices until standard input ends."""
    ways = (Direction(one, other, delay_s), Direction(other, one, delay_s))
    stdin = sys.stdin.fileno()
    while True:
        wait_s = min(way.write_due() for way in ways)
        readable, _, _ = select.select([one, other, stdin], [], [], min(wait_s, 1.0))
        if stdin in readable:
            return
        for way in ways:
            if way.source in readable:
                way.read()


if __name__ == "__main__":
    gc.disable()
    theirs, own_address, delay = sys.argv[1:]
    ours = open_tun("bench1", own_address)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    carry(int(theirs), ours, float(delay))
