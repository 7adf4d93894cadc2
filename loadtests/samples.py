"""What a live run keeps of its requests: columns of numbers, sent from workers to their master in pieces."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.answers import INFEASIBLE, UNSENT, Attempt, outcome_of
from loadtests.simulation.records import CODE
from serving.core.outcome import Outcome

COLUMNS: Mapping[str, str] = {
    "at_s": "d",  # intended send, from the start of the run
    "kind": "h",  # place of the class in the scenario
    "rows": "l",
    "outcome": "b",
    "status": "h",  # of HTTP; 0: no answer
    "variant": "h",  # place in the metadata of its model; -1: none
    "latency_s": "d",
    "lag_s": "d",
    "batch_rows": "l",
    "compute_s": "d",
}
MOST_PROBLEMS = 50
"""Different problems that are told; a server with a new text for each failure must not fill the report."""


class Samples:
    """Requests in the order in which they ended."""

    def __init__(self) -> None:
        self.columns: dict[str, array[Any]] = {name: array(code) for name, code in COLUMNS.items()}
        self.problems: Counter[str] = Counter()
        self.unsent = 0
        self._told = 0
        self._told_problems: Counter[str] = Counter()
        self._told_unsent = 0

    def __len__(self) -> int:
        return len(self.columns["at_s"])

    def add(self, attempt: Attempt, kind: int, variants: Sequence[str]) -> Outcome:
        """Keep one request of class number `kind`; `variants` are the names of its model's. Returns its outcome."""
        call, answer = attempt.call, attempt.answer
        problem = answer.problem
        if answer.variant and answer.variant not in variants:
            problem = f"answered by '{answer.variant}', which was not there when the run began"
        outcome = outcome_of(answer, in_time=attempt.latency_s <= call.budget.latency_s)
        if outcome in (Outcome.MET, Outcome.LATE) and problem:
            outcome = Outcome.FAILED
        self.unsent += answer is UNSENT
        if problem and (outcome in (Outcome.FAILED, Outcome.CANCELLED) or answer.status == INFEASIBLE):
            known = problem in self.problems or len(self.problems) < MOST_PROBLEMS
            self.problems[problem if known else "other problems"] += 1
        values = (
            call.at_s,
            kind,
            call.rows,
            CODE[outcome],
            answer.status,
            variants.index(answer.variant) if answer.variant in variants else -1,
            attempt.latency_s,
            attempt.lag_s,
            answer.batch_rows,
            answer.compute_s,
        )
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)
        return outcome

    def news(self) -> dict[str, Any]:
        """What came since it was asked last, for `take` of another process."""
        begin, self._told = self._told, len(self)
        problems, self._told_problems = self.problems - self._told_problems, self.problems.copy()
        unsent, self._told_unsent = self.unsent - self._told_unsent, self.unsent
        return {
            "columns": {name: column[begin:].tobytes() for name, column in self.columns.items()},
            "problems": dict(problems),
            "unsent": unsent,
        }

    def take(self, news: Mapping[str, Any]) -> None:
        """Add what another process has told. Both run on the same kind of machine, as numbers go in its own format."""
        for name, column in self.columns.items():
            column.frombytes(news["columns"][name])
        self.problems.update(news["problems"])
        self.unsent += news["unsent"]
