"""What gateways and workers of the split topology tell each other once a second.

A gateway calls all workers at once: they learn what it is asked for, and it learns how many of them there are, how many
gateways share them, and its own place among those. So workers can be scaled on the gateways' signals, and every gateway
knows which workers are its own as they come and go.
"""

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from typing import Any

from deployments.handles import LOST, HandleBackend
from serving.core.demand import ReplicaSignals
from serving.core.workers import own_workers

BEAT_S = 1.0
ANSWER_S = 5.0
"""How long a beat waits for the workers."""

log = logging.getLogger("gearshift.beat")


class Beat:
    """A gateway's side, as long as it lives."""

    def __init__(self, handle: Any, backend: HandleBackend, load: Callable[[], ReplicaSignals | None]) -> None:
        """`handle`: a DeploymentHandle of `Worker`. Must be made inside the event loop that runs it."""
        self._handle = handle
        self._backend = backend
        self._load = load
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Say nothing more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def once(self) -> None:
        """Tell, and learn. A worker that does not answer is not counted on; with no answer at all nothing changes."""
        load = self._load()
        numbers = {} if load is None else load.flat()
        response = self._handle.broadcast("hear", self._name, numbers)
        answers = await response.results_async(timeout_s=ANSWER_S, return_exceptions=True)
        heard = [answer for answer in answers if isinstance(answer, tuple)]
        if heard:
            place, gateways = max(heard, key=lambda told: told[1])  # a worker that is new has not heard of all
            own = own_workers(len(heard), gateways, place)
            if own != self._backend.own:
                log.info("workers", extra={"workers": len(heard), "gateways": gateways, "own": list(own)})
            self._backend.own = own

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(*LOST):  # the next beat will do
                await self.once()
            await asyncio.sleep(BEAT_S)
