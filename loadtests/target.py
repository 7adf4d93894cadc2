"""What a live gateway tells about the models it serves, in the terms of the simulator."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from loadtests.durations import Durations, Host, Level, VariantDurations
from loadtests.scenario import Scenario
from loadtests.simulation.served import ELEMENT_BYTES, Served
from loadtests.simulation.setting import Assumptions
from loadtests.workload import capacity_rows_s
from models.manifest import TensorSpec
from serving.core.fleet import VariantView
from serving.core.latency import LatencyTable

Metadata = Mapping[str, Any]
"""The answer of GET /v2/models/{model}."""


class TargetError(ValueError):
    """The host does not serve what the scenario asks for; the message says what is missing."""


def metadata_path(model: str) -> str:
    """Where a gateway tells about a model."""
    return f"/v2/models/{model}"


def read_target(names: Iterable[str], get: Callable[[str], Metadata]) -> dict[str, Metadata]:
    """Metadata of the models, asked for by `get`, whose errors pass. Raises `TargetError` for another server's."""
    found = {}
    for name in names:
        found[name] = metadata = get(metadata_path(name))
        try:
            served_as_told(metadata)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise TargetError(
                f"model '{name}': the host does not tell its variants and their profiles, as a gearshift gateway does "
                f"({type(error).__name__}: {error}); is --host right?"
            ) from error
    return found


def served_as_told(metadata: Metadata) -> Served:
    """The model as its gateway sees it: its profile stands for measured durations."""
    told = metadata["gearshift"]
    views = []
    durations = []
    for index, variant in enumerate(told["variants"]):
        rows = tuple(int(count) for count in variant["profile"]["rows"])
        times_ms = tuple(float(value) for value in variant["profile"]["ms"])
        views.append(
            VariantView(
                index=index,
                name=str(variant["name"]),
                known_accuracy=None if variant["accuracy"] is None else float(variant["accuracy"]),
                table=LatencyTable(rows, [value / 1e3 for value in times_ms]),
                knee_rows=int(variant["knee_rows"]),
                energy_mj_per_row=float(variant.get("energy_mj_per_row", 0.0)),
            )
        )
        level = Level(busy=1, rows=rows, samples_us=tuple((value * 1e3,) for value in times_ms))
        durations.append(VariantDurations(name=str(variant["name"]), levels=(level,)))
    return Served(
        name=str(metadata["name"]),
        variants=tuple(views),
        durations=Durations(
            family=f"{metadata['name']}/{told['version']}", host=_UNKNOWN_HOST, variants=tuple(durations)
        ),
        row_bytes=sum(_elements(spec) for spec in input_specs(metadata)) * ELEMENT_BYTES,
    )


def input_specs(metadata: Metadata) -> tuple[TensorSpec, ...]:
    """The inputs of a model, with the filling up of free axes where there is one."""
    paddings = metadata.get("gearshift", {}).get("padding", {})
    return tuple(
        TensorSpec.model_validate_json(_spec_json(spec, paddings.get(spec["name"]))) for spec in metadata["inputs"]
    )


def capacities(models: Mapping[str, Metadata], scenario: Scenario) -> dict[str, float]:
    """Rows a second that the scenario's fleet does with the smallest variant of each model, by the host's profile."""
    overhead_s = Assumptions().batch_overhead_s
    return {
        name: capacity_rows_s(served_as_told(metadata).variants, scenario.fleet.total_workers, overhead_s)
        for name, metadata in models.items()
    }


def _spec_json(spec: Mapping[str, Any], padding: object) -> str:
    kept = {"name": spec["name"], "datatype": spec["datatype"], "shape": spec["shape"]}
    return json.dumps(kept if padding is None else {**kept, "padding": padding})


def _elements(spec: TensorSpec) -> int:
    count = 1
    for dim in spec.shape[1:]:
        count *= max(1, dim)
    return count


_UNKNOWN_HOST = Host(
    processor="as the gateway tells", cores=1, onnxruntime="", python="", command="", load_average=0.0, seed=0
)
"""A gateway tells medians, not where and how they were measured."""
