"""A caller in a process of its own: tritonclient as it is published, against a container.

usage: client.py http|grpc HOST:PORT ROWS [PARAMETERS as JSON]; prints the shape of the answer and what was chosen.
"""

import json
import sys

import numpy as np


def main(protocol: str, address: str, rows: str, parameters: str = "{}") -> None:
    """Send one batch of blank images to the demo family."""
    if protocol == "grpc":
        from tritonclient import grpc as client
    else:
        from tritonclient import http as client  # type: ignore[no-redef]
    image = client.InferInput("image", [int(rows), 28, 28], "UINT8")
    image.set_data_from_numpy(np.zeros((int(rows), 28, 28), np.uint8))
    with client.InferenceServerClient(address) as server:
        assert server.is_server_ready()
        answer = server.infer("fashion", [image], parameters=json.loads(parameters))
    response = answer.get_response()
    model = response["model_name"] if protocol == "http" else response.model_name
    print(json.dumps({"model": model, "shape": list(answer.as_numpy("probabilities").shape)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
