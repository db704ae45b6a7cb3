"""What a server is given to do."""

from __future__ import annotations

from dataclasses import dataclass

from bench.handshake import Transport
from bench.mark import device_id


@dataclass(frozen=True)
class Group:
    """Clients that ask for the same devices; `reads` is false for those that never read."""

    devices: tuple[str, ...]
    clients: int = 1
    reads: bool = True


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a server is given to do: messages at a rate, over all devices in turn, to clients."""

    groups: tuple[Group, ...]
    rate: float
    seconds: float
    warmup_s: float = 1.0
    transport: Transport = "websocket"

    @property
    def devices(self) -> list[str]:
        """All devices, each once."""
        return sorted({device for group in self.groups for device in group.devices})

    @property
    def deliveries_per_message(self) -> float:
        """How many clients that read a message goes to, on average."""
        subscriptions = sum(
            len(group.devices) * group.clients for group in self.groups if group.reads
        )
        return subscriptions / len(self.devices)


def shared_devices(devices: int, clients: int, *, reads: bool = True) -> Group:
    """Clients that all ask for the same so many devices."""
    return Group(tuple(device_id(index) for index in range(devices)), clients, reads)


def one_each(clients: int) -> tuple[Group, ...]:
    """Clients with a device of its own each."""
    return tuple(Group((device_id(index),)) for index in range(clients))
