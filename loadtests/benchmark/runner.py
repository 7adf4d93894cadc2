"""The benchmark loop: for each repeat, each server: start, check, measure, stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loadtests.benchmark.load import LoadResult
from loadtests.benchmark.oracle import Oracle, WrongAnswerError
from loadtests.benchmark.results import Cell, Failure, Results, Sample
from loadtests.benchmark.running import StartError, running
from loadtests.benchmark.servers import ServerSpec, free_place
from loadtests.benchmark.tree import ProcessTree
from loadtests.benchmark.wire import BodyFormat, Payload, encode_request
from loadtests.benchmark.wrk import WrkError


class Load(Protocol):
    """A load generator."""

    @property
    def name(self) -> str:
        """What it is called in the results."""
        ...

    def run(self, url: str, payload: Payload, connections: int, duration_s: int) -> LoadResult:
        """Load `url` for `duration_s` over `connections`."""
        ...


class BothLoads:
    """Sends gRPC through one generator and everything else through another."""

    def __init__(self, http: Load, grpc: Load) -> None:
        self._http = http
        self._grpc = grpc

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self._http.name}, {self._grpc.name}"

    def run(self, url: str, payload: Payload, connections: int, duration_s: int) -> LoadResult:
        """See `Load`."""
        load = self._grpc if url.startswith("grpc:") else self._http
        return load.run(url, payload, connections, duration_s)


class Watcher(Protocol):
    """Is told how the run goes on."""

    def doing(self, what: str) -> None:
        """Say what goes on now."""
        ...

    def measured(self, cell: Cell, sample: Sample) -> None:
        """Report one finished window."""
        ...

    def failed(self, failure: Failure) -> None:
        """Report a server that could not be measured."""
        ...

    def server_done(self) -> None:
        """Say that a server has been stopped and its samples are in: a good moment to save."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    servers: Sequence[ServerSpec]
    formats: Sequence[BodyFormat]
    connections: Sequence[int]
    repeats: int
    duration_s: int
    warmup_s: int
    extra_env: Mapping[str, str]

    @property
    def cells(self) -> int:
        """How many windows the whole run measures."""
        windows = sum(len(spec.formats(self.formats)) for spec in self.servers)
        return windows * len(self.connections) * self.repeats

    @property
    def load_s(self) -> int:
        """How long the load alone takes, starts and stops not counted."""
        return self.cells * (self.duration_s + self.warmup_s)


class Runner:
    """Runs a plan. Repeats are the outer loop, so that a slow minute of the machine hits all servers alike."""

    def __init__(
        self, plan: Plan, load: Load, oracle: Oracle, model: Path, folder: Path, results: Results, watcher: Watcher
    ) -> None:
        self._plan = plan
        self._load = load
        self._oracle = oracle
        self._model = model
        self._folder = folder
        self._results = results
        self._watcher = watcher
        self._payloads = {name: encode_request(oracle.rows[:1], name) for name in plan.formats}

    def run(self) -> None:
        """Measure everything into the results; a server that failed is left out of the later repeats."""
        for repeat in range(1, self._plan.repeats + 1):
            for spec in self._plan.servers:
                if all(failure.server != spec.name for failure in self._results.failures):
                    self._measure_server(spec, repeat)
                    self._watcher.server_done()
        self._results.complete = True

    def _measure_server(self, spec: ServerSpec, repeat: int) -> None:
        place = free_place(self._model)
        title = f"repeat {repeat}/{self._plan.repeats} {spec.name}"
        self._watcher.doing(f"{title}: start")
        try:
            with running(spec, place, self._folder, self._plan.extra_env) as tree:
                self._watcher.doing(f"{title}: check answers")
                formats = spec.formats(self._plan.formats)
                for body_format in formats:
                    self._oracle.check(spec.target(place, body_format), body_format)
                for body_format in formats:
                    for connections in self._plan.connections:
                        self._watcher.doing(f"{title}: {body_format}, {connections} connections")
                        self._measure_cell(
                            Cell(spec.name, body_format, connections), repeat, spec.target(place, body_format), tree
                        )
                self._watcher.doing(f"{title}: check answers, stop")
                # Once more: a server that survives the load but answers wrong after it is not sound either.
                for body_format in formats:
                    self._oracle.check(spec.target(place, body_format), body_format)
        except (StartError, WrongAnswerError, WrkError) as error:
            failure = Failure(spec.name, repeat, str(error))
            self._results.failures.append(failure)
            self._watcher.failed(failure)

    def _measure_cell(self, cell: Cell, repeat: int, url: str, tree: ProcessTree) -> None:
        payload = self._payloads[cell.body_format]
        warmup = self._load.run(url, payload, cell.connections, self._plan.warmup_s)
        before_s = tree.cpu_s()
        window = self._load.run(url, payload, cell.connections, self._plan.duration_s)
        sample = Sample(repeat, window, tree.cpu_s() - before_s, warmup.errors)
        self._results.add(cell, sample)
        self._watcher.measured(cell, sample)


def new_results(plan: Plan, oracle: Oracle, command: str, facts: Mapping[str, str]) -> Results:
    """Return empty results that say what `plan` is about to measure."""
    sizes = {name: len(encode_request(oracle.rows[:1], name).body) for name in plan.formats}
    return Results(
        command=command,
        facts=facts,
        settings={
            "servers": {spec.name: spec.about for spec in plan.servers},
            "connections": list(plan.connections),
            "repeats": plan.repeats,
            "duration_s": plan.duration_s,
            "warmup_s": plan.warmup_s,
            "body_bytes": sizes,
        },
    )
