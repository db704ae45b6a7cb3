"""A nursery for context managers whose users shall not learn that there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery out of which an exception of the block comes as it is, in no group.

    Unlike with `trio.open_nursery`, an exception of the block does not cancel the children: the
    block has to see to it that they end. What a child raises comes in a group, as ever, unless
    the block raised too: then the block's own exception wins.

    Cancellation: reaches the block and the children alike.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except trio.Cancelled:
                raise  # it may be a child's failure that cancelled us
            except BaseException as error:
                failure = error
    finally:
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # its traceback holds this frame
