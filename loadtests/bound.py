"""The most accuracy that any scheduler could have served, knowing every arrival ahead: a fluid upper bound.

Policies are compared with it, because the load itself decides how good an answer can be. Why it holds:

1. An on-time answer to request i (n_i rows, window [r_i, d_i]) by variant v comes from a batch of b >= n_i rows
   that runs inside the window, so l_v(b) <= d_i - r_i. Its share of the batch, n_i / b of the time, is at least
   n_i * c_iv worker-seconds, with the price c_iv = min l_v(b) / b over the b that fit i's window. All shares
   together take at most W worker-seconds a second, each inside its own window. So the amounts of work x_i that
   answers stand for can be done by one fluid server of speed W that may be interrupted and may serve anything.
2. The rows that x_i pays for are worth at most g_i(x_i), with g_i the upper concave hull of (0, 0) and the points
   (n_i c_iv, n_i a_v) of the variants that *this* request may use. A floor, an energy cap, a pinned variant, another
   model or a tighter window only changes g_i: requests need not be alike.
3. The x that a fluid server can do form a polymatroid (flows from windows to requests), and stay one when each g_i
   is cut at its corners into linear pieces. Over a polymatroid the greedy rule, steepest piece first whoever owns
   it, maximises a sum of concave functions (Federgruen and Groenevelt, 1986). What it reaches is
   sum_k s_k (F_k - F_{k-1}), over all different slopes s_1 > s_2 > ... of all requests, where F_k is the
   most work that can be done when each request has only its pieces at least as steep as s_k.
4. F_k is what earliest-deadline-first does with those sizes, cut at the deadlines, partial work counted: it finds
   the maximal flow because windows are intervals (Glover, 1967).

So the bound is the exact optimum of the relaxation in 1 and 2: O(K n log n) for K different slopes. What it gives
away: batches, whole answers and separate workers. It holds for the durations it is given: where they depend on how
many workers are busy, pass the least. With random durations and their means it is a yardstick and no longer a proof:
a batch that is luckier than its mean may answer where the mean could not.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from math import inf

from loadtests.workload import Call
from serving.core.budget import ROUNDING, RequestBudget, eligible_variants
from serving.core.errors import Infeasible
from serving.core.fleet import VariantView

MOST_SLOPES = 64
"""More different slopes than this are merged upwards: each is one pass over all requests."""
FINEST_MERGE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class BatchCost:
    """What one variant's answers are worth and cost. Compared by identity: keep one object for each variant."""

    accuracy: float
    seconds: tuple[float, ...]
    """`seconds[b - 1]`: time of a batch of b rows, up to the largest that is allowed; never falling."""

    @classmethod
    def measured(cls, accuracy: float, seconds: Sequence[float]) -> "BatchCost":
        """From times that may fall by noise: each is lowered to the least of the larger batches, which keeps the
        bound a bound."""
        lowest = list(accumulate(reversed(seconds), min))
        return cls(accuracy, tuple(reversed(lowest)))

    def __post_init__(self) -> None:
        if not self.seconds or self.seconds[0] <= 0 or any(a > b for a, b in pairwise(self.seconds)):
            raise ValueError("batch times must be above 0 and must not fall with more rows")

    def most_rows(self, within_s: float) -> int:
        """Rows of the largest batch that takes no longer than `within_s`; 0 when none does."""
        return bisect_right(self.seconds, within_s * (1 + ROUNDING))


@dataclass(frozen=True, slots=True)
class Demand:
    """One request as the bound sees it."""

    at_s: float
    budget_s: float
    rows: int
    variants: tuple[BatchCost, ...]
    """Those that may answer it; none when its budget is infeasible, and then it earns nothing."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that can be earned from a set of requests."""

    accuracy_sum: float
    """Sum over rows of the accuracy they are answered with in time."""
    rows: int
    """Rows that arrived."""

    @property
    def effective_accuracy(self) -> float:
        """Over all rows that arrived; 0 when none did."""
        return self.accuracy_sum / self.rows if self.rows else 0.0


def upper_bound(demands: Iterable[Demand], workers: float) -> Bound:
    """Bound the effective accuracy of `workers` workers on these requests, in any order.

    To the relaxation workers are a speed: it need not be a whole number.
    """
    known: dict[tuple[int, tuple[BatchCost, ...], tuple[int, ...]], int] = {}
    hulls: list[list[_Piece]] = []
    served: list[Demand] = []
    hull_of: list[int] = []
    rows = 0
    for demand in sorted(demands, key=lambda demand: demand.at_s):
        rows += demand.rows
        # Windows that fit the same batches give the same prices, however much they differ.
        largest = tuple(cost.most_rows(demand.budget_s) for cost in demand.variants)
        key = (demand.rows, demand.variants, largest)
        number = known.setdefault(key, len(hulls))
        if number == len(hulls):
            hulls.append(_hull(demand.rows, demand.variants, largest))
        if hulls[number]:
            served.append(demand)
            hull_of.append(number)
    windows = _Windows(served)
    total = before = 0.0
    hulls = _merge_slopes(hulls)
    for slope in sorted({piece.slope for hull in hulls for piece in hull}, reverse=True):
        sizes = [sum(piece.length_s for piece in hull if piece.slope >= slope) for hull in hulls]
        work_s = windows.work_done([sizes[number] for number in hull_of], workers)
        total += slope * (work_s - before)
        before = work_s
    return Bound(total, rows)


def batch_costs(variants: Iterable[VariantView], most_rows: int) -> tuple[BatchCost, ...]:
    """Costs as the variants' tables tell them, for batches of up to `most_rows` rows."""
    return tuple(
        BatchCost(view.accuracy, tuple(view.table.seconds(rows) for rows in range(1, most_rows + 1)))
        for view in variants
    )


def demands_of(
    calls: Iterable[Call], views: Mapping[str, tuple[VariantView, ...]], costs: Mapping[str, Sequence[BatchCost]]
) -> Iterator[Demand]:
    """The calls with the variants that a gateway would let answer them.

    By model: `views`, what the gateway believes of its variants, and `costs`, what they truly cost, in the same
    order. A budget that the gateway calls infeasible can earn nothing.
    """
    known: dict[tuple[str, int, RequestBudget], tuple[BatchCost, ...]] = {}
    for call in calls:
        key = (call.model, call.rows, call.budget)
        if key not in known:
            try:
                allowed = eligible_variants(call.budget, call.rows, views[call.model], call.model).variants
            except Infeasible:
                allowed = ()
            known[key] = tuple(costs[call.model][index] for index in allowed)
        yield Demand(call.at_s, call.budget.latency_s, call.rows, known[key])


@dataclass(frozen=True, slots=True)
class _Piece:
    """A straight piece of a hull: `length_s` worker-seconds that earn `slope` each."""

    slope: float
    length_s: float


def _hull(rows: int, variants: Sequence[BatchCost], largest: Sequence[int]) -> list[_Piece]:
    """The pieces of g: worker-seconds spent on one request to accuracy times rows, steepest first."""
    points = []
    for cost, most in zip(variants, largest, strict=True):
        if most >= rows:
            price_s = min(cost.seconds[size - 1] / size for size in range(rows, most + 1))
            points.append((rows * price_s, rows * cost.accuracy))
    corners = [(0.0, 0.0)]
    for work_s, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if worth <= corners[-1][1]:
            continue  # dearer and no better
        while len(corners) > 1 and _slope(corners[-2], (work_s, worth)) >= _slope(corners[-2], corners[-1]):
            corners.pop()
        corners.append((work_s, worth))
    return [_Piece(_slope(left, right), right[0] - left[0]) for left, right in pairwise(corners)]


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def _merge_slopes(hulls: list[list[_Piece]]) -> list[list[_Piece]]:
    """The same hulls with at most `MOST_SLOPES` different slopes.

    Slopes are only ever raised, to the steepest of their neighbours within a share that is as small as will do: the
    bound stays one, and grows by no more than that share.
    """
    slopes = sorted({piece.slope for hull in hulls for piece in hull}, reverse=True)
    raised = {slope: slope for slope in slopes}
    share = FINEST_MERGE
    while len(set(raised.values())) > MOST_SLOPES:
        top = slopes[0]
        for slope in slopes:
            top = top if top * (1 - share) <= slope else slope
            raised[slope] = top
        share *= 2
    return [[_Piece(raised[piece.slope], piece.length_s) for piece in hull] for hull in hulls]


class _Windows:
    """The windows of all requests, sorted once for many passes. Requests are numbered by deadline."""

    __slots__ = ("_at_s", "_due_s", "_number")

    def __init__(self, demands: Sequence[Demand]) -> None:
        """`demands` in the order of arrival."""
        due_s = [demand.at_s + demand.budget_s for demand in demands]
        self._at_s = [demand.at_s for demand in demands]
        self._number = [0] * len(demands)
        order = sorted(range(len(demands)), key=due_s.__getitem__)
        for number, place in enumerate(order):
            self._number[place] = number
        self._due_s = [due_s[place] for place in order]

    def work_done(self, work_s: Sequence[float], speed: float) -> float:
        """Most work that fits the windows when request i, in order of arrival, has `work_s[i]` of it."""
        due_s, left = self._due_s, [0.0] * len(work_s)
        waiting: list[int] = []
        busy_s = 0.0
        for now, until, number, work in zip(self._at_s, [*self._at_s[1:], inf], self._number, work_s, strict=True):
            left[number] = work / speed
            heappush(waiting, number)
            while waiting and now < until:
                first = waiting[0]
                end = min(now + left[first], due_s[first])
                if end > until:
                    left[first] -= until - now
                    busy_s += until - now
                    break
                if end > now:
                    busy_s += end - now
                    now = end
                heappop(waiting)
        return busy_s * speed
