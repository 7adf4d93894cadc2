"""What the gateway tells about a model: metadata, configuration and statistics, as Triton's clients read them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import Metric

from models.manifest import Family, LatencyProfile, TensorSpec
from serving.core.fleet import VariantView
from serving.core.outcome import Outcome
from serving.lane import Lane

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "parameters",
    "schedule_policy",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
    "logging",
    "gearshift_budget",
)
"""Of the protocol, by the names Triton gives them."""
ANSWERED = (Outcome.MET.value, Outcome.LATE.value)
"""Outcomes that Triton calls a success."""


def metadata_of(lane: Lane, versions: list[str]) -> dict[str, Any]:
    """Open Inference Protocol metadata; the key `gearshift` adds the variants and what they cost on this host."""
    family = lane.family
    return {
        "name": family.name,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in family.inputs],
        "outputs": [_tensor(spec) for spec in family.outputs],
        "gearshift": {
            "version": family.version,
            "description": family.description,
            "license": family.license,
            "default_budget": family.default_budget.model_dump(mode="json", exclude_none=True),
            "max_batch_rows": family.max_batch_rows,
            "slowdown": round(lane.scheduler.latency.slowdown, 4),
            "labels": {spec.name: list(spec.labels) for spec in family.outputs if spec.labels},
            "padding": {name: padding.model_dump(mode="json") for name, padding in lane.paddings.items()},
            "variants": variants_of(lane),
        },
    }


def variants_of(lane: Lane) -> list[dict[str, Any]]:
    """Each variant of a lane with its accuracy, its size, and its profile on this host."""
    return describe_variants(lane.family, lane.variants, lane.profiles)


def describe_variants(
    family: Family, views: Sequence[VariantView], profiles: Mapping[str, LatencyProfile]
) -> list[dict[str, Any]]:
    """Each variant with its accuracy, its size, and its profile; in the order of the manifest."""
    frontier = frontier_of(views)
    described = []
    for view, variant in zip(views, family.variants, strict=True):
        profile = profiles[view.name]
        entry: dict[str, Any] = {
            "name": view.name,
            "accuracy": variant.accuracy,
            "size_bytes": variant.size_bytes,
            "sha256": variant.sha256,
            "on_frontier": view.name in frontier,
            "knee_rows": view.knee_rows,
            "ms_at_1": round(view.table.seconds(1) * 1e3, 4),
            "ms_at_knee": round(view.table.seconds(view.knee_rows) * 1e3, 4),
            "profile": {"rows": list(profile.rows), "ms": [round(s * 1e3, 4) for s in profile.seconds]},
        }
        if profile.energy_source != "none":
            entry["energy_mj_per_row"] = round(profile.energy_mj_per_row, 4)
            entry["energy_source"] = profile.energy_source
        if not variant.file:
            del entry["sha256"]
        if variant.remote is not None:
            # Who asks this gateway needs not know where its endpoints are, and which variables it has.
            entry["remote"] = {"model": variant.remote.model, "timeout_ms": variant.remote.timeout_ms}
        if variant.cascade is not None:
            entry["cascade"] = variant.cascade.model_dump(mode="json")
        if variant.evidence is not None:
            entry["evidence"] = variant.evidence.model_dump(mode="json")
        described.append(entry)
    return described


def frontier_of(views: Sequence[VariantView]) -> set[str]:
    """Names of the variants that no other beats in accuracy at the same or less time for one row."""
    kept: set[str] = set()
    best = -1.0
    for view in sorted(views, key=lambda v: (v.table.seconds(1), -v.accuracy)):
        if view.accuracy > best:
            kept.add(view.name)
            best = view.accuracy
    return kept


def config_of(lane: Lane) -> dict[str, Any]:
    """The model's configuration in Triton's words: with a batch axis, dimensions leave it out."""
    family = lane.family
    batch = family.max_batch_rows if family.batchable else 0
    return {
        "name": family.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [int(family.version)]}},
        "max_batch_size": batch,
        "input": [_config_tensor(spec, batched=bool(batch)) for spec in family.inputs],
        "output": [_config_tensor(spec, batched=bool(batch)) for spec in family.outputs],
        "dynamic_batching": {"preferred_batch_size": sorted({v.knee_rows for v in lane.variants})},
        "parameters": {},
    }


def statistics_of(lane: Lane, families: Iterable[Metric]) -> dict[str, Any]:
    """Triton's statistics, added up over all replicas of the node."""
    own = {"model": lane.family.name, "version": lane.family.version}
    figures = [
        (sample.name, sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if own.items() <= sample.labels.items()
    ]

    def total(name: str, **labels: str) -> float:
        return sum((value for found, has, value in figures if found == name and labels.items() <= has.items()), 0.0)

    def looked_up(result: str) -> dict[str, int]:
        count = total("gearshift_cache_lookups_total", result=result)
        return _timed(int(count), total("gearshift_cache_lookup_seconds_total", result=result))

    success = int(sum(total("gearshift_outcome_total", outcome=outcome) for outcome in ANSWERED))
    success_s = sum(total("gearshift_request_duration_seconds_sum", outcome=outcome) for outcome in ANSWERED)
    failed = int(total("gearshift_outcome_total")) - success
    failed_s = total("gearshift_request_duration_seconds_sum") - success_s
    sizes = sorted({int(has["rows"]) for found, has, _ in figures if found == "gearshift_batches_total"})
    return {
        "name": lane.family.name,
        "version": lane.family.version,
        "last_inference": int(total("gearshift_last_inference_time_seconds") * 1e3),
        "inference_count": int(sum(total("gearshift_rows_total", outcome=outcome) for outcome in ANSWERED)),
        "execution_count": int(total("gearshift_compute_duration_seconds_count")),
        "inference_stats": {
            "success": _timed(success, success_s),
            "fail": _timed(failed, failed_s),
            "queue": _timed(success, total("gearshift_queue_duration_seconds_sum")),
            "compute_input": _timed(success, total("gearshift_decode_seconds_total")),
            "compute_infer": _timed(success, total("gearshift_compute_duration_seconds_sum")),
            "compute_output": _timed(success, total("gearshift_encode_seconds_total")),
            "cache_hit": looked_up("hit"),
            "cache_miss": looked_up("miss"),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": size,
                **{
                    f"compute_{stage}": _timed(
                        int(total("gearshift_batches_total", rows=str(size))),
                        total("gearshift_batch_stage_seconds_total", rows=str(size), stage=stage),
                    )
                    for stage in ("input", "infer", "output")
                },
            }
            for size in sizes
        ],
        "memory_usage": [],
    }


def _timed(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config_tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = spec.shape[1:] if batched else spec.shape
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(dims)}
