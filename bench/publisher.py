"""The publisher: messages at a rate, over one bare MQTT connection (MQTT 3.1.1, QoS 0).

    python -m bench.publisher '{"port": 1883, "devices": ["000001"], "rate": 1000, …}'

The arguments are those of `Plan`. Paced on absolute times: message k is due at
`start_ns + k / rate`, whatever happened before. Above 5000 a second, what is due within a tick of
0.2 ms goes out together, since a process of its own size cannot sleep more finely. Each message
carries the time just before the system call that sends it. Prints one JSON object at the end.
"""

from __future__ import annotations

import gc
import json
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench.latency import median
from bench.mark import Template

TICK_NS = 200_000
_KEEPALIVE_S = 600
_PUBLISH, _CONNACK = 0x30, 0x20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to publish: `count` messages, the devices in turn.

    `first` is how many messages were published before, so that numbers go on.
    """

    port: int
    devices: list[str]
    rate: float
    count: int
    start_ns: int
    first: int = 0


def remaining_length(size: int) -> bytes:
    """MQTT's variable-length size (MQTT 3.1.1 §2.2.3)."""
    out = bytearray()
    while True:
        size, low = divmod(size, 128)
        out.append(low | (0x80 if size else 0))
        if not size:
            return bytes(out)


def publish_packet(topic: bytes, payload: bytes) -> bytes:
    """A PUBLISH at QoS 0 (MQTT 3.1.1 §3.3)."""
    body = struct.pack("!H", len(topic)) + topic + payload
    return bytes((_PUBLISH,)) + remaining_length(len(body)) + body


def connect(port: int, name: str) -> socket.socket:
    """A connection to the broker. Raises: OSError; ConnectionError when it refuses."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client_id = name.encode()
    variable = b"\0\4MQTT\4\2" + struct.pack("!HH", _KEEPALIVE_S, len(client_id)) + client_id
    sock.sendall(b"\x10" + remaining_length(len(variable)) + variable)
    answer = sock.recv(4)
    if len(answer) != 4 or answer[0] != _CONNACK or answer[3] != 0:
        raise ConnectionError(f"the broker answered {answer!r} to CONNECT")
    return sock


def publish(plan: Plan) -> dict[str, Any]:
    """Publish as planned; say how it went. `late_ms`: how far behind its time each tick was."""
    sock = connect(plan.port, f"bench-{plan.start_ns}")
    templates = [Template(device) for device in plan.devices]
    step = max(1, round(plan.rate * TICK_NS / 1e9))
    late_ns = []
    for begin in range(0, plan.count, step):
        due_ns = plan.start_ns + round(begin * 1e9 / plan.rate)
        wait_ns = due_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        now_ns = time.monotonic_ns()
        late_ns.append(now_ns - due_ns)
        packets = []
        for k in range(plan.first + begin, plan.first + min(begin + step, plan.count)):
            number, device = divmod(k, len(templates))
            template = templates[device]
            packets.append(publish_packet(template.topic, template.fill(number, now_ns)))
        sock.sendall(b"".join(packets))
    took_s = (time.monotonic_ns() - plan.start_ns) / 1e9
    sock.sendall(b"\xe0\0")  # DISCONNECT
    sock.close()
    late_ns.sort()
    return {
        "took_s": took_s,
        "late_p50_ms": median(late_ns) / 1e6,
        "late_p99_ms": late_ns[int(len(late_ns) * 0.99)] / 1e6,
    }


if __name__ == "__main__":
    gc.disable()
    sys.stdout.write(json.dumps(publish(Plan(**json.loads(sys.argv[1])))) + "\n")
