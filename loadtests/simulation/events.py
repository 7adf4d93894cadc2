"""The event loop of the simulator: what happens at one moment is handled, then the schedulers decide."""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import inf
from time import perf_counter
from typing import Any

from loadtests.durations import Sampler, uniforms
from loadtests.simulation.gateway import Gateway, open_gateways
from loadtests.simulation.pool import Batch, Pool
from loadtests.simulation.records import CODE, Records
from loadtests.simulation.served import Served
from loadtests.simulation.setting import Assumptions, Fleet
from loadtests.workload import Call
from serving.core.admission import Admitted
from serving.core.outcome import Outcome
from serving.core.policies.registry import NamedPolicy
from serving.core.request import Request
from serving.core.scheduler import Dispatch, Expire, Wait

MIN_TIMER_S = 0.0005
"""Shortest sleep between two decisions, as the dispatcher has it."""
TOLERANCE_S = 1e-9
"""The same hair of tolerance the core has: sums of floats."""
_MET, _LATE = CODE[Outcome.MET], CODE[Outcome.LATE]
_REJECTED, _EXPIRED = CODE[Outcome.REJECTED], CODE[Outcome.EXPIRED]
_DOOR, _REACH, _DONE, _BACK, _TIMER = range(5)
"""A request stands at the door; a batch reaches its worker, ends there, is back; a gateway's timer goes off."""


class SimulationError(RuntimeError):
    """The run broke a rule that every policy and workload must keep; the message says which."""


class Simulation:
    """One run. Make it, and `run` it once."""

    def __init__(
        self, served: Sequence[Served], fleet: Fleet, policy: NamedPolicy, seed: int, assumptions: Assumptions
    ) -> None:
        self._served = tuple(served)
        self._fleet = fleet
        self._numbers = {family.name: number for number, family in enumerate(self._served)}
        self._samplers = [
            Sampler(
                family.durations,
                [view.name for view in family.variants],
                fleet.total_workers,
                seed + 1_000_003 * number,
                noise=assumptions.noise,
            )
            for number, family in enumerate(self._served)
        ]
        self._gateways = open_gateways(self._served, fleet, policy, assumptions, seed)
        self._open = self._gateways
        """Those that take requests."""
        self._at_random = uniforms(seed, stream=1)
        overhead = assumptions.overhead
        self._parse_s, self._hand_off_s = overhead.parse_us / 1e6, overhead.hand_off_us / 1e6
        self._travel_s, self._render_s = overhead.travel_us / 1e6, overhead.render_us / 1e6
        self._events: list[tuple[float, int, int, Any]] = []
        self._serial = 0
        self._now_s = 0.0
        self.ended_s = 0.0
        self.kinds: dict[str, int] = {}
        self.records = Records()
        self._moved: dict[Gateway, None] = {}
        """Gateways at which something happened at this moment, in that order."""

    def run(self, calls: Iterable[Call]) -> None:
        """Until every call has ended. Raises `SimulationError`."""
        arrivals = iter(calls)
        events, moved = self._events, self._moved
        call = next(arrivals, None)
        while call is not None or events:
            if call is not None and (not events or call.at_s <= events[0][0]):
                if call.at_s < self._now_s:
                    raise SimulationError(f"calls must come in the order of their times: {call.at_s:g} s came late")
                self._now_s = call.at_s
                self._arrive(call)
                call = next(arrivals, None)
            else:
                self._now_s, _, what, subject = heappop(events)
                self._handle(what, subject)
            if moved:
                next_s = events[0][0] if events else inf
                if next_s > self._now_s and (call is None or call.at_s > self._now_s):
                    for gateway in moved:
                        self._pump(gateway)
                    moved.clear()
        if self.records.open:
            raise SimulationError(f"{self.records.open} requests never ended: the policy let them wait for ever")

    def _at(self, at_s: float, what: int, subject: object) -> None:
        self._serial += 1
        heappush(self._events, (at_s, self._serial, what, subject))

    def _arrive(self, call: Call) -> None:
        """The last byte of a request is here."""
        self.ended_s = at_s = self._now_s
        budget, rows = call.budget, call.rows
        model = self._numbers[call.model]
        kind = self.kinds.setdefault(call.kind, len(self.kinds))
        number = self.records.arrived(at_s, kind, model, rows)
        gateways = self._open
        gateway = gateways[0] if len(gateways) == 1 else gateways[int(next(self._at_random) * len(gateways))]
        allowed = gateway.eligibilities[model].of(budget, rows)
        if allowed is None:
            self.records.refused_for_ever(number)
            return
        request = Request(
            rows=rows,
            arrival_s=at_s,
            deadline_s=at_s + budget.latency_s,
            eligibility=allowed,
            priority=budget.priority,
            size_bytes=rows * self._served[model].row_bytes,
            payload=number,
        )
        if not self._parse_s:
            self._offer(gateway, model, request)
            return
        gateway.loop_free_s = max(at_s, gateway.loop_free_s) + self._parse_s
        self._at(gateway.loop_free_s, _DOOR, (gateway, model, request))

    def _handle(self, what: int, subject: Any) -> None:
        if what == _DONE:
            self._done(subject)
        elif what == _TIMER:
            self._ring(subject)
        elif what == _DOOR:
            self._offer(*subject)
        elif what == _BACK:
            self._back(subject)
        else:
            self._reach(subject)

    def _offer(self, gateway: Gateway, model: int, request: Request) -> None:
        now_s = self._now_s
        scheduler = gateway.schedulers[model]
        gateway.shares.asked(model, scheduler.work_s(request), len(gateway.workers), now_s)
        verdict = scheduler.offer(request, now_s, gateway.counted(model, now_s)[0])
        if not isinstance(verdict, Admitted):
            self.records.ended(request.payload, _REJECTED)
        elif gateway.workers.idle or scheduler.queue.head is request:
            self._moved[gateway] = None

    def _ring(self, gateway: Gateway) -> None:
        """A timer goes off. Those that were put off meanwhile are set anew: cheaper than to take each one back."""
        if self._now_s != gateway.armed_s:
            return  # an earlier one was set after it, and has gone off
        gateway.armed_s = inf
        if gateway.due_s <= self._now_s:
            self._moved[gateway] = None
        elif gateway.due_s < inf:
            self._arm(gateway)

    def _arm(self, gateway: Gateway) -> None:
        if gateway.due_s < gateway.armed_s:
            gateway.armed_s = gateway.due_s
            self._at(gateway.due_s, _TIMER, gateway)

    def _pump(self, gateway: Gateway) -> None:
        """Let the schedulers decide until none has anything to do now; then sleep until the next moment."""
        wake_s = inf
        for model in gateway.in_order(self._now_s):
            wake_s = min(wake_s, self._serve(gateway, model))
        gateway.due_s = max(wake_s, self._now_s + MIN_TIMER_S)
        if wake_s < inf:
            self._arm(gateway)

    def _serve(self, gateway: Gateway, model: int) -> float:
        """Carry out one model's decisions; returns when it wants to be asked again."""
        scheduler, workers, now_s = gateway.schedulers[model], gateway.workers, self._now_s
        note = self.records.decision_s.append
        while True:
            idle = workers.idle
            free_at_s, share = gateway.counted(model, now_s)
            started_s = perf_counter()
            decision = scheduler.decide(now_s, idle, free_at_s, share)
            note(perf_counter() - started_s)
            match decision:
                case Dispatch():
                    if not idle:
                        raise SimulationError("a batch was dispatched while no worker was idle")
                    self._start(gateway, model, decision)
                case Expire(requests):
                    if not requests:
                        raise SimulationError("an empty Expire would be decided for ever")
                    for request in requests:
                        scheduler.ended(request, None)
                        self.records.ended(request.payload, _EXPIRED)
                case Wait(until_s):
                    return until_s

    def _start(self, gateway: Gateway, model: int, decision: Dispatch) -> None:
        now_s = self._now_s
        batch = Batch(
            gateway=gateway.number,
            model=model,
            variant=decision.variant,
            requests=decision.requests,
            rows=decision.rows,
            booked=gateway.workers.start(now_s, decision.expected_s + gateway.schedulers[model].hand_over_s),
            decided_s=now_s,
        )
        batch.crowd = gateway.workers.crowd
        gateway.shares.charge(model, decision.expected_s, len(gateway.workers), now_s)
        batch.worker = gateway.route.choose(batch, now_s)
        reach_s = now_s
        if self._hand_off_s:
            gateway.loop_free_s = reach_s = max(now_s, gateway.loop_free_s) + self._hand_off_s
        reach_s += self._travel_s
        if reach_s > now_s:
            self._at(reach_s, _REACH, batch)
        else:
            self._reach(batch)

    def _reach(self, batch: Batch) -> None:
        pool = self._gateways[batch.gateway].pool
        if pool.put(batch):
            pool.host.busy += 1
            self._begin(batch, pool)

    def _begin(self, batch: Batch, pool: Pool) -> None:
        batch.service_s = self._samplers[batch.model].draw(batch.variant, batch.rows, pool.host.busy)
        self._at(self._now_s + batch.service_s, _DONE, batch)

    def _done(self, batch: Batch) -> None:
        pool = self._gateways[batch.gateway].pool
        after = pool.done(batch.worker)
        if after is None:
            pool.host.busy -= 1
        else:
            self._begin(after, pool)
        # The end of a batch is seen when the gateway's loop has done what came before it.
        seen_s = max(self._now_s + self._travel_s, self._gateways[batch.gateway].loop_free_s)
        if seen_s > self._now_s:
            self._at(seen_s, _BACK, batch)
        else:
            self._back(batch)

    def _back(self, batch: Batch) -> None:
        """The gateway learns from a batch, sends its answers, and decides what is next."""
        gateway, now_s = self._gateways[batch.gateway], self._now_s
        self.ended_s = now_s
        scheduler = gateway.schedulers[batch.model]
        scheduler.observe(batch.variant, batch.rows, batch.service_s, now_s, crowd=batch.crowd)
        kept_s = gateway.workers.kept_s(batch.booked, now_s)
        if kept_s is not None:
            scheduler.observe_hand_over(kept_s - batch.service_s)
        gateway.workers.finish(batch.booked, now_s)
        gateway.route.returned(batch)
        self._moved[gateway] = None
        records, render_s = self.records, self._render_s
        records.ran(batch)
        spent_s = batch.decided_s + batch.service_s
        answered_s = max(now_s, gateway.loop_free_s) if render_s else now_s
        for request in batch.requests:
            answered_s += render_s
            met = answered_s <= request.deadline_s + TOLERANCE_S
            scheduler.ended(request, batch.variant if met else None)
            records.ended(request.payload, _MET if met else _LATE, batch.variant, answered_s - request.arrival_s)
            scheduler.observe_overhead(answered_s - spent_s)
        if render_s:
            gateway.loop_free_s = answered_s
