"""Checks a server's answers against the reference before anything is measured: a fast wrong answer is no result."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
from tritonclient.grpc import service_pb2

from loadtests.benchmark.wire import (
    INFER_METHOD,
    AnswerError,
    BodyFormat,
    decode_answer,
    encode_request,
    grpc_output,
    grpc_request,
)
from loadtests.fixtures import FloatArray, reference_outputs, sample_rows

_TOLERANCE = 1e-4  # batched and single runs differ by 1e-7; two rows of the sample by 1e-2 and more
_TIMEOUT_S = 30.0


class WrongAnswerError(RuntimeError):
    """A server whose answers are errors, or differ from the reference."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """Rows [n, 784] and the right answers to them [n, 10]."""

    rows: FloatArray
    expected: FloatArray

    @classmethod
    def of(cls, model: Path, count: int = 64) -> Self:
        """Ask ONNX Runtime for the answers to `count` different rows."""
        rows = sample_rows(count)
        return cls(rows, reference_outputs(model, rows))

    def check(self, url: str, body_format: BodyFormat, connections: int = 16) -> None:
        """Send each row as a request of its own, many at once; raises `WrongAnswerError` on the first wrong one.

        Different rows in flight together: a server that mixes up the rows of a batch is found here.
        """
        asyncio.run(
            self._check_grpc(url, connections) if body_format == "grpc" else self._check(url, body_format, connections)
        )

    async def _check(self, url: str, body_format: BodyFormat, connections: int) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        async with httpx.AsyncClient(limits=limits, timeout=_TIMEOUT_S, trust_env=False) as client:
            calls = [self._check_row(client, url, body_format, index) for index in range(len(self.rows))]
            # All are awaited before the first complaint: none is left running in a closed client.
            for failure in await asyncio.gather(*calls, return_exceptions=True):
                if failure is not None:
                    raise failure

    async def _check_grpc(self, url: str, calls: int) -> None:
        room = asyncio.Semaphore(calls)
        async with grpc.aio.insecure_channel(urlsplit(url).netloc) as channel:
            infer = channel.unary_unary(
                INFER_METHOD,
                request_serializer=service_pb2.ModelInferRequest.SerializeToString,
                response_deserializer=service_pb2.ModelInferResponse.FromString,
            )

            async def check_row(index: int) -> None:
                try:
                    async with room:
                        answer = await infer(grpc_request(self.rows[index : index + 1]), timeout=_TIMEOUT_S)
                    self._compare("grpc", index, grpc_output(answer))
                except grpc.aio.AioRpcError as error:
                    raise WrongAnswerError(f"grpc: {error.code().name}: {error.details()}") from error
                except AnswerError as error:
                    raise WrongAnswerError(f"grpc: {error}") from error

            calls_made = [check_row(index) for index in range(len(self.rows))]
            for failure in await asyncio.gather(*calls_made, return_exceptions=True):
                if failure is not None:
                    raise failure

    async def _check_row(self, client: httpx.AsyncClient, url: str, body_format: BodyFormat, index: int) -> None:
        payload = encode_request(self.rows[index : index + 1], body_format)
        try:
            answer = await client.post(url, content=payload.body, headers=dict(payload.headers))
        except httpx.HTTPError as error:
            raise WrongAnswerError(f"{body_format}: no answer: {type(error).__name__} {error}") from error
        if answer.status_code != httpx.codes.OK:
            raise WrongAnswerError(f"{body_format}: status {answer.status_code}: {answer.text[:300]}")
        try:
            output = decode_answer(answer.content, answer.headers)
        except AnswerError as error:
            raise WrongAnswerError(f"{body_format}: {error}") from error
        self._compare(body_format, index, output)

    def _compare(self, body_format: BodyFormat, index: int, output: FloatArray) -> None:
        expected = self.expected[index : index + 1]
        if output.shape != expected.shape:
            raise WrongAnswerError(f"{body_format}: shape {output.shape}, expected {expected.shape}")
        worst = float(np.max(np.abs(output - expected)))
        if not worst <= _TOLERANCE:  # written so that a NaN fails
            raise WrongAnswerError(f"{body_format}: row {index} is off by {worst:.2g} (allowed {_TOLERANCE:g})")
