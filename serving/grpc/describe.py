"""Metadata, configuration and statistics of models as messages: what `serving.http.describe` tells, in protobuf."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.json_format import ParseDict
from prometheus_client.metrics_core import Metric
from tritonclient.grpc import service_pb2 as pb

from serving.http.describe import config_of, metadata_of, statistics_of
from serving.lane import Lane


def metadata_message(lane: Lane, versions: list[str]) -> pb.ModelMetadataResponse:
    """Names, datatypes and shapes."""
    return _filled(pb.ModelMetadataResponse(), metadata_of(lane, versions))


def config_message(lane: Lane) -> pb.ModelConfigResponse:
    """The configuration in Triton's words."""
    return _filled(pb.ModelConfigResponse(), {"config": config_of(lane)})


def statistics_message(lanes: Iterable[Lane], families: Iterable[Metric]) -> pb.ModelStatisticsResponse:
    """Statistics of these lanes, added up over the replicas of the node."""
    families = list(families)
    return _filled(pb.ModelStatisticsResponse(), {"model_stats": [statistics_of(lane, families) for lane in lanes]})


def _filled(message: Any, content: dict[str, Any]) -> Any:
    """What the page has and the message has not stays away: the variants and their profiles."""
    return ParseDict(content, message, ignore_unknown_fields=True)
