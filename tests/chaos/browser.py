"""Native `EventSource` and `tracker.js` in one page of a real Chromium."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal

import trio

from tests.browser import chromium_path, open_page
from tests.chaos.clients import to_entry
from tests.chaos.ledger import Account, Entry

Kind = Literal["EventSource", "tracker.js"]

# Every stream's log is a list of [name, data, id, time]; `cut` stands where a connection began.
_SCRIPT = """
async ([kinds, names]) => {
  const { Tracker } = await import("/tracker.js");
  globalThis.logs = kinds.map(([kind, ids]) => {
    const log = [];
    const note = ({ type, data, lastEventId }) => {
      const value = typeof data === "string" ? JSON.parse(data) : data;
      delete value.data?.FILL; // it would take its time on the way to us
      log.push([type, value, lastEventId, Date.now()]);
    };
    const cut = () => log.push(["cut", null, "", Date.now()]);
    const state = ({ data }) =>
      data.state === "connecting" ? cut() : log.push(["state", data, "", Date.now()]);
    let source;
    if (kind === "EventSource") {
      source = new EventSource(`/api/v1/stream?device_ids=${ids}`);
      source.onopen = cut;
    } else {
      source = new Tracker("/api/v1/stream", { deviceIds: ids });
      source.addEventListener("state", state);
    }
    for (const name of names) source.addEventListener(name, note);
    globalThis.sources = [...(globalThis.sources ?? []), source];
    return log;
  });
}
"""
_NAMES = ["message", "gap", "resume", "upstream", "reconnect", "closed", "hello", "ack", "snapshot"]
_LAST_NUMBERS = """
() => logs.map((log) => {
  const last = {};
  for (const [name, data] of log) if (name === "message") last[data.data.DEVICE_ID] = data.data.N;
  return last;
})
"""
_HAVE_BEGUN = "() => logs.every((log) => log.length)"
_POLL_S = 0.2
_END_S = 20.0


class Browser:
    """A page whose streams go through the proxy at `port`; each is (kind, device ids)."""

    def __init__(self, port: int, streams: Sequence[tuple[Kind, tuple[str, ...]]]) -> None:
        self._port = port
        self._streams = streams
        self._path = chromium_path()
        self._wanted: dict[str, int] = {}
        self._finish = threading.Event()
        self.accounts = [
            Account(f"{kind} {number}", device_ids, knows_positions=False)
            for number, (kind, device_ids) in enumerate(streams)
        ]

    def finish(self, last: dict[str, int]) -> None:
        """Let `run` end once every stream has the last message of each of its devices."""
        self._wanted = last
        self._finish.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have the page open; started once its streams are; then fill the accounts.

        Cancellation: the page is closed within moments.
        """
        started = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_in_thread, started)
            await started.wait()
            task_status.started()

    async def _run_in_thread(self, started: trio.Event) -> None:
        try:
            await trio.to_thread.run_sync(self._visit, started)
        finally:
            self._finish.set()

    def _visit(self, started: trio.Event) -> None:
        # Connections that are refused are what this is about: no console error counts.
        with open_page(self._path, [], 800, 600, "light", ()) as page:
            page.goto(f"http://127.0.0.1:{self._port}/healthz")
            kinds = [[kind, list(ids)] for kind, ids in self._streams]
            page.evaluate(_SCRIPT, [kinds, _NAMES])
            page.wait_for_function(_HAVE_BEGUN)
            trio.from_thread.run_sync(started.set)
            while not self._finish.wait(_POLL_S):
                trio.from_thread.check_cancelled()
            # A client that was cut again and again may wait for half a minute.
            page.evaluate("""() => dispatchEvent(new Event("online"))""")
            deadline_s = trio.from_thread.run_sync(trio.current_time) + _END_S
            while not all(map(self._has_all, page.evaluate(_LAST_NUMBERS), self._streams)):
                if trio.from_thread.run_sync(trio.current_time) > deadline_s:
                    break  # the audit says what is missing
                page.wait_for_timeout(_POLL_S * 1000)
            logs: list[list[list[Any]]] = page.evaluate("() => logs")
        for account, log in zip(self.accounts, logs, strict=True):
            account.entries += [_entry(*heard) for heard in log]

    def _has_all(self, last: dict[str, int], stream: tuple[Kind, tuple[str, ...]]) -> bool:
        return all(last.get(device_id) == self._wanted[device_id] for device_id in stream[1])


def _entry(name: str, data: Any, event_id: str, heard_ms: float) -> Entry:
    if name == "cut":
        return Entry("cut", heard_s=heard_ms / 1000)
    if name == "state":
        return Entry("other", word=str(data))
    return to_entry(name, data, event_id if name == "message" else "", heard_ms / 1000)
