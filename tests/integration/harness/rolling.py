"""`gearshift serve` on two colocated Ray replicas, with a handle: each line on standard input replaces them.

Composed of the same pieces as the command. Prints "replaced" after each replacement; ends with standard input.
"""

import argparse
import sys
from pathlib import Path

from deployments.cluster import start_cluster
from deployments.options import configure_environment
from serving.config import load_settings

READY_WITHIN_S = 90.0


def main() -> None:
    """Serve, replace, drain."""
    parser = argparse.ArgumentParser()
    for name in ("--http-port", "--grpc-port", "--metrics-port"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--models", type=Path, required=True)
    options = parser.parse_args()
    settings = load_settings(
        overrides={
            "server": {
                "http_port": options.http_port,
                "grpc_port": options.grpc_port,
                "metrics_port": options.metrics_port,
            },
            "engine": {"kind": "ray", "replicas": 2},
            "models": {"repository": options.models},
        }
    )
    configure_environment()
    with start_cluster(settings.run_folder, progress=_tell) as cluster:
        from deployments.app import application

        def deploy() -> None:
            cluster.deploy(application(settings), name="gearshift", timeout_s=READY_WITHIN_S, progress=_tell)

        deploy()
        _tell("Ctrl-C stops it")  # what a ready server says
        for _ in sys.stdin:
            deploy()
            _tell("replaced")


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
