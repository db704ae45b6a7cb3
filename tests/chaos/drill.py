"""The drill: fifty clients, and everything is cut, killed and restarted under them."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.chaos.browser import Browser, Kind
from tests.chaos.clients import Client, Habits, Transport
from tests.chaos.ledger import Account, Balance, DiscrepancyError, Published, audit
from tests.chaos.proxy import CuttingProxy
from tests.chaos.publisher import Fleet
from tests.mosquitto import Mosquitto
from tests.serving import Serving

_DEVICES = [f"device-{number:02}" for number in range(25)]
_DEVICES_PER_CLIENT = 5
_MESSAGES_PER_S = 500.0
_CUT_S = (1.0, 3.0)
_SLOW = 4
_BROWSER_STREAMS: tuple[Kind, ...] = (
    *("EventSource", "EventSource", "EventSource"),
    *("tracker.js", "tracker.js", "tracker.js"),
)

#: When what happens, as parts of the drill's length; each up to `_JITTER` later.
_GATEWAY_STOPS = (0.05, 0.55)
_BROKER_KILLS = (0.4, 0.85)
_JITTER = 0.08
_BROKER_AWAY_S = (0.2, 2.0)
_BEGIN_S = 30.0
_SETTLE_S = 40.0
#: Until the slow ones read again, so that the last messages are not dropped.
_CALM_S = 4.0

#: A broker that keeps our session bridges a planned restart; the small buffer makes gaps.
_SETTINGS = {
    "TRACKER_MQTT__CLIENT_ID": "chaos-gateway",
    "TRACKER_MQTT__CLEAN_SESSION": "false",
    "TRACKER_MQTT__QOS": "1",
    "TRACKER_MQTT__RECONNECT_MIN_S": "0.1",
    "TRACKER_MQTT__RECONNECT_MAX_S": "0.5",
    "TRACKER_STREAM__BUFFER_MESSAGES": "5",
    "TRACKER_STREAM__HISTORY_MESSAGES": "300",
    "TRACKER_STREAM__HISTORY_FILE": "history.jsonl",
    "TRACKER_STREAM__DRAIN_S": "0.5",
    "TRACKER_STREAM__PING_S": "5",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a drill whose books balance."""

    published: int
    unknown: int
    cuts: int
    balances: dict[str, Balance]

    def __str__(self) -> str:
        resumes: Counter[str] = Counter()
        for balance in self.balances.values():
            resumes.update(balance.resumes)
        return (
            f"{self.published} messages published, and {self.unknown} under way when the broker was"
            f" killed; {len(self.balances)} clients, {self.cuts} cuts; "
            + ", ".join(
                f"{number} resumes {outcome}" for outcome, number in sorted(resumes.items())
            )
            + f"; {sum(each.delivered for each in self.balances.values())} deliveries,"
            f" {sum(each.in_gaps for each in self.balances.values())} in gaps,"
            f" {sum(each.in_spans for each in self.balances.values())} in spans that were told"
        )


class Drill:
    """One drill of `length_s` seconds with `clients` clients; `seed` makes it again.

    `say`: gets a line for each thing that happens.
    """

    def __init__(
        self, *, length_s: float, clients: int, seed: int, say: Callable[[str], object]
    ) -> None:
        self._length_s = length_s
        self._count = clients
        self._seed = seed
        self._say = say
        self._gateways: list[Serving] = []
        self._begun_s = time.time()

    async def run(self) -> Outcome:
        """Run it, and audit the books. Raises: DiscrepancyError, TooSlowError."""
        with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
            broker = Mosquitto(Path(directory), extra="max_inflight_messages 100")
            broker.start()
            try:
                await self._start_gateway(Path(directory), broker)
                return await self._run(Path(directory), broker)
            except DiscrepancyError as error:
                logs = "".join(gateway.log for gateway in self._gateways)
                raise DiscrepancyError(f"{error}\nthe gateways said:\n{logs}") from None
            finally:
                for gateway in self._gateways:
                    gateway.kill()
                broker.kill()

    async def _run(self, directory: Path, broker: Mosquitto) -> Outcome:
        rng = self._rng("clients")
        fleet = Fleet(broker.port, _DEVICES, self._rng("fleet"), per_s=_MESSAGES_PER_S)
        proxy = CuttingProxy(self._gateway.port, self._rng("proxy"), _CUT_S)
        clients = [
            Client(
                *self._character(number, rng),
                self._rng(f"client {number}"),
                lambda: self._gateway.port,
            )
            for number in range(self._count - len(_BROWSER_STREAMS))
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            browser = Browser(
                proxy.port,
                [(kind, self._sample(_DEVICES_PER_CLIENT, rng)) for kind in _BROWSER_STREAMS],
            )
            for client in clients:
                nursery.start_soon(client.run)
            with trio.fail_after(_BEGIN_S):
                for client in clients:
                    await client.has_begun.wait()
            browser_ended = trio.Event()
            await nursery.start(_run_until, browser, browser_ended)
            self._say(f"{self._count} clients listen")
            fleet_ended = trio.Event()
            nursery.start_soon(_run_fleet, fleet, fleet_ended)
            await self._make_trouble(directory, broker, proxy)
            for client in clients:
                client.is_restless = False
            proxy.is_restless = False
            await trio.sleep(_CALM_S)
            fleet.stop()
            with trio.move_on_after(_SETTLE_S):
                await fleet_ended.wait()
                last = {device_id: fleet.published.last(device_id) for device_id in _DEVICES}
                self._say("all is published; the clients have their last messages to get")
                browser.finish(last)
                for client in clients:
                    while not client.has_all(last):  # noqa: ASYNC110 the client sets no event
                        await trio.sleep(0.05)
                await browser_ended.wait()
            nursery.cancel_scope.cancel()
        accounts = [client.account for client in clients] + browser.accounts
        cuts = proxy.cuts + sum(client.cuts for client in clients)
        return _audit_all(accounts, fleet.published, cuts, self._begun_s)

    def _character(self, number: int, rng: random.Random) -> tuple[str, tuple[str, ...], Habits]:
        if number < _SLOW:
            transport: Transport = ("websocket", "sse")[number % 2]
            # It is left alone for longer: it takes time to be too slow.
            cut_s = (3 * _CUT_S[0], 3 * _CUT_S[1])
            return f"slow {transport} {number}", tuple(_DEVICES), Habits(transport, cut_s, True)
        transport = rng.choice(("websocket", "websocket", "sse", "sse", "either"))
        device_ids = self._sample(_DEVICES_PER_CLIENT, rng)
        return f"{transport} {number}", device_ids, Habits(transport, _CUT_S)

    @staticmethod
    def _sample(count: int, rng: random.Random) -> tuple[str, ...]:
        return tuple(rng.sample(_DEVICES, count))

    def _rng(self, part: str) -> random.Random:
        """A source of its own for each part, so that one does not disturb another."""
        return random.Random(f"{self._seed} {part}")

    @property
    def _gateway(self) -> Serving:
        return self._gateways[-1]

    async def _start_gateway(self, directory: Path, broker: Mosquitto) -> None:
        gateway = Serving(directory, broker.url, environment=_SETTINGS)
        await trio.to_thread.run_sync(gateway.wait_listening)
        self._gateways.append(gateway)

    async def _make_trouble(self, directory: Path, broker: Mosquitto, proxy: CuttingProxy) -> None:
        rng = self._rng("trouble")
        begun_s = trio.current_time()

        def when(part: float) -> float:
            return begun_s + self._length_s * (part + rng.uniform(0, _JITTER))

        async with trio.open_nursery() as nursery:
            for part in _GATEWAY_STOPS:
                nursery.start_soon(self._restart_gateway, when(part), directory, broker, proxy)
            for part in _BROKER_KILLS:
                away_s = rng.uniform(*_BROKER_AWAY_S)
                nursery.start_soon(self._kill_broker, when(part), broker, away_s)
            await trio.sleep_until(begun_s + self._length_s)

    async def _restart_gateway(
        self, when_s: float, directory: Path, broker: Mosquitto, proxy: CuttingProxy
    ) -> None:
        await trio.sleep_until(when_s)
        self._say("the gateway is asked to stop")
        code = await trio.to_thread.run_sync(self._gateway.stop)
        assert code == 0, f"the gateway ended with {code}: {self._gateway.log}"
        await self._start_gateway(directory, broker)
        proxy.target = self._gateway.port
        self._say("a new gateway listens")

    async def _kill_broker(self, when_s: float, broker: Mosquitto, away_s: float) -> None:
        await trio.sleep_until(when_s)
        self._say(f"the broker is killed, for {away_s:.1f} s")
        await trio.to_thread.run_sync(broker.kill)
        await trio.sleep(away_s)
        await trio.to_thread.run_sync(broker.start)


async def _run_until(
    browser: Browser, ended: trio.Event, *, task_status: trio.TaskStatus[None]
) -> None:
    await browser.run(task_status=task_status)
    ended.set()


async def _run_fleet(fleet: Fleet, ended: trio.Event) -> None:
    await fleet.run()
    ended.set()


def _audit_all(accounts: list[Account], published: Published, cuts: int, begun_s: float) -> Outcome:
    for account in accounts:
        account.begun_s = begun_s
    return Outcome(
        published=sum(map(len, published.acknowledged.values())),
        unknown=sum(map(len, published.unknown.values())),
        cuts=cuts,
        balances={account.name: audit(account, published) for account in accounts},
    )


async def drill(
    *, length_s: float, clients: int, seed: int, say: Callable[[str], object]
) -> Outcome:
    """Run one drill. Raises: DiscrepancyError, with the seed, when the books do not balance."""
    return await Drill(length_s=length_s, clients=clients, seed=seed, say=say).run()
