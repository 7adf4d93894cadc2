"""How calls to the workers of the split topology are routed: each batch to the worker its gateway booked it on.

Ray Serve's own router sends a call to the less loaded of two workers drawn at random, by the number of calls there. The
gateway knows better: which of its workers will be free first, by what runs on each. A batch that goes elsewhere waits
behind one that nobody counted on.
"""

from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class Booked(RequestRouter):  # type: ignore[misc]  # Ray Serve's class is not typed
    """Workers are numbered in the order of their ids, the same for every gateway. Runs inside each gateway."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._candidates: Sequence[RunningReplica] = ()
        self._numbered: list[RunningReplica] = []

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The worker that the keyword `worker` of the call numbers, and the others behind it, should it not answer.

        A call without that keyword goes to whichever has least to do.
        """
        if candidate_replicas is not self._candidates:
            self._candidates = candidate_replicas
            self._numbered = sorted(candidate_replicas, key=lambda replica: replica.replica_id.unique_id)
        number = None if pending_request is None else pending_request.kwargs.get("worker")
        if number is None or not self._numbered:
            return [self._numbered]
        at = number % len(self._numbered)
        return [[self._numbered[at]], [*self._numbered[at + 1 :], *self._numbered[:at]]]
