"""A remote variant: a model behind any endpoint of the Open Inference Protocol, as a larger one in another cluster."""

import json
import os
from collections.abc import Mapping
from math import inf
from typing import Any

from models.endpoint import Endpoint, EndpointError, Reply
from models.manifest import Family, ManifestError, Remote, TensorSpec
from models.session import Tensor, VariantLost
from models.tensor_wire import WireError, decode_reply, encode_request
from models.trace_context import TRACEPARENT

CHECK_S = 2.0
"""Time for one question about the endpoint itself."""
MAX_REPLY_BYTES = 64 * 1024 * 1024
MARGIN = 0.9
"""Share of the time left that an endpoint is told it has: its answer has a way to go."""
LEAST_S = 0.001
BINARY = "binary_tensor_data"
BUDGET = "gearshift_budget"


class RemoteModel:
    """One model of one endpoint, as a runner. Safe to use from several threads; each keeps its own connection."""

    waits = True

    def __init__(self, family: Family, remote: Remote) -> None:
        """Nothing is sent yet. Raises `ManifestError` where a variable of `headers_env` is not set."""
        headers = {}
        for header, variable in remote.headers_env.items():
            value = os.environ.get(variable)
            if not value or not value.isascii() or not value.isprintable():
                raise ManifestError(
                    f"remote variant at {remote.url}: header {header} needs the environment variable {variable}, "
                    "which is not set or cannot be sent"
                )
            headers[header] = value
        self.url = remote.url
        self._family = family
        self._timeout_s = remote.timeout_ms / 1e3
        self._endpoint = Endpoint(remote.url, headers, max_reply_bytes=MAX_REPLY_BYTES)
        self._path = f"/v2/models/{remote.model}" + (f"/versions/{remote.version}" if remote.version else "")
        self._variant = remote.variant
        self._extensions: frozenset[str] | None = None
        """What the endpoint can do beyond the protocol; unknown until it was asked."""

    def check(self) -> None:
        """Ask what the endpoint serves. Raises `VariantLost` where it does not answer as it must.

        Raises `ManifestError` where the model there takes or gives something else than the family does: time cannot
        heal that.
        """
        self._extensions = self._ask_extensions(CHECK_S)
        told = self._ask(self._path, CHECK_S)
        for kind, specs in (("input", self._family.inputs), ("output", self._family.outputs)):
            self._compare(kind, specs, told.get(f"{kind}s"))

    def run(self, inputs: Mapping[str, Tensor], budget_s: float = inf) -> dict[str, Tensor]:
        """See `models.runner.Runner.run`. The time limit is the least of the budget and the manifest's own.

        Whatever goes wrong is `VariantLost`: only a local variant's word on an input is final.
        """
        within_s = min(budget_s, self._timeout_s)
        if within_s < LEAST_S:
            raise VariantLost(f"{self.url}: no time left to ask")
        extensions = self._extensions
        if extensions is None:
            extensions = self._extensions = self._ask_extensions(within_s)
        try:
            return self._infer(inputs, within_s, extensions)
        except (EndpointError, WireError) as error:
            self._extensions = None  # another software may answer next, with other abilities
            raise VariantLost(f"{self.url}: {error}") from error

    def _infer(self, inputs: Mapping[str, Tensor], within_s: float, extensions: frozenset[str]) -> dict[str, Tensor]:
        body, headers = encode_request(
            inputs,
            self._family.inputs,
            self._family.outputs,
            self._parameters(within_s, extensions),
            binary=BINARY in extensions,
        )
        traceparent = TRACEPARENT.get()
        if traceparent is not None:
            headers = {**headers, "traceparent": traceparent}
        reply = self._endpoint.exchange("POST", f"{self._path}/infer", within_s=within_s, body=body, headers=headers)
        if reply.status != 200:
            raise EndpointError(_refusal(reply))
        return decode_reply(reply.body, reply.headers, self._family.outputs, self._rows(inputs))

    def _parameters(self, within_s: float, extensions: frozenset[str]) -> dict[str, str | float]:
        """A Gearshift there is told what is left of the budget; others would refuse what they do not know."""
        if BUDGET not in extensions:
            return {}
        told: dict[str, str | float] = {"latency_budget_ms": round(within_s * MARGIN * 1e3, 3)}
        if self._variant is not None:
            told["variant"] = self._variant
        return told

    def _rows(self, inputs: Mapping[str, Tensor]) -> int | None:
        return len(inputs[self._family.inputs[0].name]) if self._family.batchable else None

    def _ask_extensions(self, within_s: float) -> frozenset[str]:
        told = self._ask("/v2", within_s).get("extensions")
        return frozenset(map(str, told)) if isinstance(told, list) else frozenset()

    def _ask(self, path: str, within_s: float) -> dict[str, Any]:
        try:
            reply = self._endpoint.exchange("GET", path, within_s=min(within_s, CHECK_S))
            if reply.status != 200:
                raise VariantLost(f"{self.url}{path}: {_refusal(reply)}")
            told = json.loads(reply.body)
        except EndpointError as error:
            raise VariantLost(f"{self.url}{path}: {error}") from error
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise VariantLost(f"{self.url}{path}: not an endpoint of the Open Inference Protocol")
        return told

    def _compare(self, kind: str, specs: tuple[TensorSpec, ...], told: object) -> None:
        """As `models.repository.require_agreement`: the endpoint may be freer in its dimensions, not stricter."""
        entries = told if isinstance(told, list) else []
        theirs = {entry.get("name"): entry for entry in entries if isinstance(entry, dict)}
        for spec in specs:
            other = theirs.get(spec.name)
            if other is None:
                names = ", ".join(str(name)[:64] for name in theirs) or "none"
                raise ManifestError(f"{self.url}{self._path}: has no {kind} '{spec.name}'; it has: {names}")
            shape = other.get("shape")
            fits = (
                isinstance(shape, list)
                and len(shape) == len(spec.shape)
                and all(dim in (-1, ours) for dim, ours in zip(shape, spec.shape, strict=True))
            )
            if other.get("datatype") != spec.datatype or not fits:
                raise ManifestError(
                    f"{self.url}{self._path}: {kind} '{spec.name}' is {str(other.get('datatype'))[:16]} "
                    f"{str(shape)[:64]} there, but {spec.datatype} {list(spec.shape)} in the manifest"
                )
        extra = sorted(str(name)[:64] for name in theirs.keys() - {spec.name for spec in specs})
        if kind == "input" and extra:
            raise ManifestError(f"{self.url}{self._path}: also wants inputs that the manifest does not name: {extra}")


def _refusal(reply: Reply) -> str:
    """Its status, and the first words of what an endpoint says about it."""
    try:
        said = str(json.loads(reply.body[:4096])["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        said = ""
    words = " ".join("".join(c if c.isprintable() else " " for c in said[:200]).split())
    return f"it answered {reply.status}" + (f": {words}" if words else "")
