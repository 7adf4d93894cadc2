"""Triton itself, as PyTriton brings it, serving the models `pair`, `text` and `fixed` of the test repository.

    python pytriton_server.py HTTP_PORT GRPC_PORT METRICS_PORT

Runs in an environment of its own until its standard input ends. The last line before it waits is "up".
"""

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

MAX_BATCH_ROWS = 256


@batch
def pair(a, b):
    return {"doubled": a * 2, "next": b + 1}


@batch
def text(text):
    return {"same": text}


def fixed(requests):
    return [{"y": request["x"] + 1} for request in requests]


def main():
    http_port, grpc_port, metrics_port = map(int, sys.argv[1:])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=http_port,
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        exit_timeout_secs=5,
    )
    batched = ModelConfig(max_batch_size=MAX_BATCH_ROWS)
    with Triton(config=config, security_config=TritonSecurityConfig(restricted_endpoints=[])) as triton:
        triton.bind(
            "pair",
            pair,
            [Tensor(name="a", dtype=np.float32, shape=(3,)), Tensor(name="b", dtype=np.int64, shape=(2,))],
            [Tensor(name="doubled", dtype=np.float32, shape=(3,)), Tensor(name="next", dtype=np.int64, shape=(2,))],
            config=batched,
        )
        triton.bind(
            "text",
            text,
            [Tensor(name="text", dtype=bytes, shape=(2,))],
            [Tensor(name="same", dtype=bytes, shape=(2,))],
            config=batched,
        )
        triton.bind(
            "fixed",
            fixed,
            [Tensor(name="x", dtype=np.float32, shape=(2, 3))],
            [Tensor(name="y", dtype=np.float32, shape=(2, 3))],
            config=ModelConfig(batching=False),
        )
        triton.run()
        print("up", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
