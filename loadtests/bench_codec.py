"""Time of the codec for one request of 784 floats and one answer of 10: `python -m loadtests.bench_codec`.

Pin it (`taskset -c 0`) and take a quiet machine: printed are the least and the median of many short runs.
"""

import json
import struct
import sys
import timeit
from collections.abc import Callable

import numpy as np

from models.manifest import Family, TensorSpec, Variant
from serving.codec.limits import CodecLimits
from serving.codec.request import decode_request
from serving.codec.response import encode_response

RUNS, CALLS = 100, 200


def main() -> None:
    """Print one line a measurement, microseconds."""
    family = Family(
        name="bench",
        inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 784)),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 10)),),
        variants=(Variant(name="only", file="only.onnx", sha256="0" * 64, size_bytes=1),),
    )
    limits = CodecLimits()
    pixels: list[float] = np.random.default_rng(7).random(784).tolist()
    short = [float(str(np.float32(pixel))) for pixel in pixels]

    def body(**tensor: object) -> bytes:
        inputs = [{"name": "input", "shape": [1, 784], "datatype": "FP32", **tensor}]
        return json.dumps({"inputs": inputs}, separators=(",", ":")).encode()

    head = body(parameters={"binary_data_size": 4 * 784})
    requests = {
        "flat, digits of FP32": (body(data=short), None),
        "nested, digits of FP32": (body(data=[short]), None),
        "flat, digits of FP64": (body(data=pixels), None),
        "binary": (head + struct.pack("<784f", *short), len(head)),
    }
    for name, (sent, header_length) in requests.items():

        def decode(sent: bytes = sent, header_length: int | None = header_length) -> object:
            return decode_request(sent, header_length=header_length, family=family, limits=limits)

        report(f"decode {len(sent):6} bytes, {name}", decode)
    request = decode_request(body(data=short), header_length=None, family=family, limits=limits)
    outputs = {"scores": np.array([short[:10]], np.float32)}
    report("encode 10 floats, JSON", lambda: encode_response(family, request, outputs))


def report(name: str, call: Callable[[], object]) -> None:
    """Time one call."""
    times = sorted(timeit.repeat(call, number=CALLS, repeat=RUNS))
    best, median = (seconds / CALLS * 1e6 for seconds in (times[0], times[RUNS // 2]))
    sys.stdout.write(f"{name:42} least {best:6.2f} us   median {median:6.2f} us\n")


if __name__ == "__main__":
    main()
