"""How a process leaves a listening socket that others may hold too, so that nobody who waits at it is reset."""

import asyncio

from serving.http.fdshare import SharedListener
from serving.http.listener import Listener
from serving.ports import Clock

BACKLOG_QUIET_S = 0.05
BACKLOG_LIMIT_S = 2.0


async def leave_socket(listening: SharedListener, listener: Listener, clock: Clock, give_up_s: float) -> None:
    """Stop accepting. Other holders take over the backlog; the last holder empties it first."""
    listener.stop()
    if listening.board is not None:
        listening.board.withdraw()
    if await asyncio.to_thread(listening.leave):
        return
    # The last holder: nobody else will answer what waits in the backlog.
    listener.start()
    end_s = min(give_up_s, clock() + BACKLOG_LIMIT_S)
    accepted, quiet_since_s = listener.accepted, clock()
    while (now_s := clock()) < end_s and now_s - quiet_since_s < BACKLOG_QUIET_S:
        await asyncio.sleep(BACKLOG_QUIET_S / 5)
        if listener.accepted != accepted or listener.is_full:
            accepted, quiet_since_s = listener.accepted, clock()
    listener.stop()
    if await asyncio.to_thread(listening.leave_or_shut):
        return  # somebody came in the meantime
    listener.accept_rest()
    await asyncio.to_thread(listening.close)
    await listener.settled(max(0.0, give_up_s - clock()))
