"""`tracker doctor`: what is wrong with a deployment, and what to do.

Exit codes: 0 when no check failed, 1 when one did, 2 for what cannot be asked, 130 after Ctrl-C
(128 + n after signal n).
"""

from __future__ import annotations

import functools
import os
import ssl
import textwrap

import click
import trio

from tracker.broker import ToolBroker
from tracker.doctor.examination import DoctorOptions, examine
from tracker.doctor.finding import Finding, Outcome
from tracker.mqtt.topics import Topic
from tracker.terminal.screen import can_redraw, has_colours
from tracker.terminal.signals import run_until_signal
from tracker.terminal.status import StatusLine
from tracker.terminal.text import printable
from tracker.watch.address import GatewayAddress, parse_gateway
from tracker.watch.dial import default_ssl_context

OK = 0
FAILED = 1
WRONG_USAGE = 2

_STDOUT = 1
_COLOURS = {Outcome.PASSED: "32", Outcome.FAILED: "1;31", Outcome.NOT_APPLICABLE: "2"}
_INDENT = max(len(outcome.value) for outcome in Outcome) + 2
_WIDEST = 110


def run(options: DoctorOptions) -> int:
    """Run `tracker doctor`. Blocks. Returns the exit code."""
    try:
        address = parse_gateway(options.url)
        broker = ToolBroker(options.mqtt, "doctor")
        broker.make_client()
        if options.publish_topic is not None:
            _check_topic(options.publish_topic)
        context = default_ssl_context(options.ca_file) if options.ca_file else None
    except ValueError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"cannot use --ca-file {options.ca_file}: {error}")
    printer = Printer()
    code = trio.run(
        run_until_signal,
        functools.partial(_examine, options, address, broker, context, printer),
    )
    printer.close()
    return code or (FAILED if printer.failed else OK)


async def _examine(
    options: DoctorOptions,
    address: GatewayAddress,
    broker: ToolBroker,
    context: ssl.SSLContext | None,
    printer: Printer,
) -> int:
    await examine(options, address, broker, context, report=printer.found, doing=printer.doing)
    printer.conclude()
    return OK


class Printer:
    """Prints findings as they are made, and between them what is being done."""

    def __init__(self) -> None:
        self._status = StatusLine()
        self._is_terminal = can_redraw(_STDOUT)
        self._has_colours = self._is_terminal and has_colours()
        self._made = 0
        self.failed: list[str] = []

    def doing(self, what: str) -> None:
        """Show what takes its time now."""
        self._status.show(f"{what} …")

    def found(self, finding: Finding) -> None:
        """Print a finding."""
        self._status.close()
        self._made += 1
        if finding.outcome is Outcome.FAILED:
            self.failed.append(finding.check)
        outcome = f"{finding.outcome.value:<{_INDENT}}"
        lines = self._wrap(f"{finding.check}: {finding.detail}", first=outcome)
        if finding.remedy:
            lines += self._wrap(f"→ {finding.remedy}", first=" " * _INDENT)
        text = "\n".join(lines)
        if self._has_colours:
            text = f"\x1b[{_COLOURS[finding.outcome]}m{outcome}\x1b[0m{text[_INDENT:]}"
        click.echo(text)

    def conclude(self) -> None:
        """Print the last line."""
        self._status.close()
        count = len(self.failed)
        if count:
            click.echo(f"\n{count} of {self._made} checks failed; begin with: {self.failed[0]}")
        else:
            click.echo("\nno check failed")

    def close(self) -> None:
        """Leave the terminal clean."""
        self._status.close()

    def _wrap(self, text: str, *, first: str) -> list[str]:
        text = printable(text)
        if not self._is_terminal:  # a line for each, for those who search
            return [first + text]
        width = min(_WIDEST, os.get_terminal_size(_STDOUT).columns or _WIDEST)
        return textwrap.wrap(
            text,
            max(width, 2 * _INDENT),
            initial_indent=first,
            subsequent_indent=" " * _INDENT,
            break_on_hyphens=False,
        )


def _check_topic(topic: str) -> None:
    try:
        Topic(topic)
    except ValueError:
        raise ValueError(
            f"--publish-topic {topic!r} is nothing to publish to; expected a topic without + and #"
        ) from None


def _complain(text: str) -> int:
    click.echo(f"tracker doctor: {printable(text)}", err=True)
    return WRONG_USAGE
