"""tritonclient.http, as it is published, against a Gearshift server: one function a feature."""

import numpy as np
import tritonclient.http as triton
from checks import run_all
from tritonclient.utils import InferenceServerException

ROWS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)


def connect(url):
    return triton.InferenceServerClient(url.removeprefix("http://"), concurrency=4)


def scale_input(rows=ROWS, *, binary=True):
    tensor = triton.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return tensor


def refused(call, *texts):
    """The call must end with an error of the client that carries the server's words."""
    message = None
    try:
        call()
    except InferenceServerException as error:
        message = error.message()
    assert message is not None, "the call went through"
    for text in texts:
        assert text in message, message


def check_health(url):
    with connect(url) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("scale")
        assert client.is_model_ready("free", "1")
        assert not client.is_model_ready("nobody")
        assert not client.is_model_ready("free", "9")


def check_server_metadata(url):
    with connect(url) as client:
        told = client.get_server_metadata()
        assert told["name"] == "gearshift"
        assert {"binary_tensor_data", "classification", "model_configuration", "statistics"} <= set(told["extensions"])


def check_model_metadata(url):
    with connect(url) as client:
        told = client.get_model_metadata("scale")
        assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        assert [output["name"] for output in told["outputs"]] == ["y", "tag"]
        assert client.get_model_metadata("free")["versions"] == ["1", "2"]


def check_model_config(url):
    with connect(url) as client:
        config = client.get_model_config("scale")
        assert config["max_batch_size"] == 256
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
        fixed = client.get_model_config("fixed")
        assert fixed["max_batch_size"] == 0
        assert fixed["input"][0]["dims"] == [2, 3]
        assert client.get_model_config("text")["input"][0]["data_type"] == "TYPE_STRING"


def check_statistics(url):
    with connect(url) as client:
        client.infer("pair", pair_inputs())
        (before,) = client.get_inference_statistics("pair")["model_stats"]
        for _ in range(5):
            client.infer("pair", pair_inputs())
        (after,) = client.get_inference_statistics("pair")["model_stats"]
        # Another replica may answer one of the two questions, with numbers that are a moment old.
        assert after["inference_count"] >= before["inference_count"] >= 0
        assert isinstance(after["version"], str)
        assert after["execution_count"] >= 1
        for kind in ("success", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"):
            assert {"count", "ns"} <= set(after["inference_stats"][kind])
        everything = client.get_inference_statistics()["model_stats"]
        assert {("free", "1"), ("free", "2")} <= {(entry["name"], entry["version"]) for entry in everything}


def check_repository_index(url):
    with connect(url) as client:
        index = client.get_model_repository_index()
        assert {"name": "scale", "version": "1", "state": "READY", "reason": ""} in index


def check_infer_binary(url):
    with connect(url) as client:
        answer = client.infer("scale", [scale_input()])
        assert np.array_equal(answer.as_numpy("y"), ROWS * 3)
        assert answer.as_numpy("y").dtype == np.float32


def check_infer_json(url):
    with connect(url) as client:
        wanted = [triton.InferRequestedOutput("y", binary_data=False)]
        answer = client.infer("scale", [scale_input(binary=False)], outputs=wanted, request_id="mine")
        assert np.array_equal(answer.as_numpy("y"), ROWS * 3)
        assert "data" in answer.get_output("y")
        assert answer.get_output("tag") is None
        assert answer.get_response()["id"] == "mine"


def check_json_in_binary_out(url):
    with connect(url) as client:  # what the client does by itself when no output is named
        answer = client.infer("scale", [scale_input(binary=False)])
        assert answer.get_output("y")["parameters"]["binary_data_size"] == ROWS.nbytes
        assert np.array_equal(answer.as_numpy("y"), ROWS * 3)


def pair_inputs():
    first = triton.InferInput("a", [2, 3], "FP32")
    first.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
    second = triton.InferInput("b", [2, 2], "INT64")
    second.set_data_from_numpy(np.arange(4, dtype=np.int64).reshape(2, 2), binary_data=False)
    return [second, first]  # not in the model's order, one in JSON and one in binary


def check_several_inputs_and_outputs(url):
    with connect(url) as client:
        outputs = [
            triton.InferRequestedOutput("next", binary_data=True),
            triton.InferRequestedOutput("doubled", binary_data=False),
        ]
        answer = client.infer("pair", pair_inputs(), outputs=outputs)
        assert np.array_equal(answer.as_numpy("doubled"), np.arange(6).reshape(2, 3) * 2)
        assert np.array_equal(answer.as_numpy("next"), np.arange(4).reshape(2, 2) + 1)


def check_compression(url):
    rows = np.arange(4 * 200, dtype=np.float32).reshape(200, 4)
    with connect(url) as client:
        for request in ("gzip", "deflate", None):
            for response in ("gzip", "deflate", None):
                for binary in (True, False):
                    answer = client.infer(
                        "scale",
                        [scale_input(rows, binary=binary)],
                        outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
                        request_compression_algorithm=request,
                        response_compression_algorithm=response,
                    )
                    assert np.array_equal(answer.as_numpy("y"), rows * 3), (request, response, binary)


def check_classification(url):
    with connect(url) as client:
        image = triton.InferInput("image", [2, 28, 28], "UINT8")
        image.set_data_from_numpy(np.zeros((2, 28, 28), np.uint8))
        scores = client.infer("fashion", [image]).as_numpy("probabilities")
        answer = client.infer("fashion", [image], outputs=[triton.InferRequestedOutput("probabilities", class_count=3)])
        best = answer.as_numpy("probabilities")
        assert best.shape == (2, 3)
        score, index, label = best[0][0].decode().split(":")
        assert label
        labels = client.get_model_metadata("fashion")["gearshift"]["labels"]["probabilities"]
        assert labels[int(index)] == label
        if (
            client.infer("fashion", [image]).get_response()["parameters"]["variant"]
            == answer.get_response()["parameters"]["variant"]
        ):
            assert int(index) == int(scores[0].argmax())
            assert abs(float(score) - float(scores[0].max())) < 1e-5


def check_priority_and_timeout(url):
    with connect(url) as client:
        answer = client.infer("scale", [scale_input()], priority=2, timeout=5_000_000)
        assert np.array_equal(answer.as_numpy("y"), ROWS * 3)
        # A microsecond is a budget that nothing can meet: the timeout is honoured.
        refused(lambda: client.infer("scale", [scale_input()], timeout=1), "within 0.001 ms", "nearest feasible")


def check_budget_parameters(url):
    def variant(**parameters):
        with connect(url) as client:
            answer = client.infer("scale", [scale_input()], parameters=parameters)
            told = answer.get_response()["parameters"]
            assert {"exact": 1, "medium": 2, "quick": 3}[told["variant"]] == answer.as_numpy("tag")[0, 0]
            return told["variant"], told["reason"]

    assert variant(latency_budget_ms=20000.0) == ("exact", "most_accurate")
    assert variant(prefer="latency") == ("quick", "prefer_latency")
    assert variant(prefer="energy", min_accuracy=0.7) == ("medium", "prefer_energy")
    assert variant(variant="medium") == ("medium", "pinned")


def check_async_infer(url):
    with connect(url) as client:
        sent = [ROWS * number for number in range(32)]
        calls = [client.async_infer("scale", [scale_input(rows)]) for rows in sent]
        for rows, call in zip(sent, calls, strict=True):
            assert np.array_equal(call.get_result(timeout=60).as_numpy("y"), rows * 3)


def check_versions(url):
    rows = np.ones((1, 3), np.float32)
    with connect(url) as client:
        for version, factor in (("1", 2), ("2", 5), ("", 5)):
            tensor = triton.InferInput("x", rows.shape, "FP32")
            tensor.set_data_from_numpy(rows)
            answer = client.infer("free", [tensor], model_version=version)
            assert np.array_equal(answer.as_numpy("y"), rows * factor)
            assert answer.get_response()["model_version"] == (version or "2")


def check_bytes(url):
    texts = np.array([["one", "zwei"], ["", "três €"]], dtype=object)
    with connect(url) as client:
        for binary in (True, False):
            tensor = triton.InferInput("text", [2, 2], "BYTES")
            tensor.set_data_from_numpy(texts, binary_data=binary)
            outputs = [triton.InferRequestedOutput("same", binary_data=binary)]
            same = client.infer("text", [tensor], outputs=outputs).as_numpy("same")
            decoded = [item.decode() if isinstance(item, bytes) else item for item in same.ravel()]
            assert decoded == list(texts.ravel()), (binary, decoded)


def check_lengths(url):
    with connect(url) as client:
        told = client.get_model_metadata("padded")
        assert told["inputs"] == [{"name": "ids", "datatype": "INT64", "shape": [-1, -1]}]
        assert told["gearshift"]["padding"] == {"ids": {"axis": 1, "buckets": [4, 8, 64], "value": 0}}
        assert client.get_model_config("padded")["input"] == [{"name": "ids", "data_type": "TYPE_INT64", "dims": [-1]}]
        calls = []
        for length in (1, 3, 5, 64):
            ids = np.full((2, length), length, np.int64)
            tensor = triton.InferInput("ids", ids.shape, "INT64")
            tensor.set_data_from_numpy(ids, binary_data=bool(length % 3))
            calls.append((length, client.async_infer("padded", [tensor])))
        for length, call in calls:
            answer = call.get_result(timeout=60)
            assert answer.as_numpy("sum").tolist() == [length**2] * 2
            assert answer.as_numpy("width").tolist() == [{1: 4, 3: 4, 5: 8, 64: 64}[length]] * 2
        ids = triton.InferInput("ids", [1, 65], "INT64")
        ids.set_data_from_numpy(np.zeros((1, 65), np.int64))
        refused(lambda: client.infer("padded", [ids]), "'ids'", "at most 64", "65")


def check_error_texts(url):
    with connect(url) as client:
        refused(lambda: client.infer("nobody", [scale_input()]), "Request for unknown model: 'nobody' is not found")
        refused(lambda: client.get_model_metadata("nobody"), "Request for unknown model: 'nobody' is not found")

        wide = scale_input(np.ones((1, 5), np.float32))
        refused(lambda: client.infer("scale", [wide]), "'x'", "[1,5]", "[-1,4]")

        whole = triton.InferInput("x", [1, 4], "INT32")
        whole.set_data_from_numpy(np.ones((1, 4), np.int32))
        refused(lambda: client.infer("scale", [whole]), "'x'", "INT32", "FP32")

        other = triton.InferInput("z", [1, 4], "FP32")
        other.set_data_from_numpy(np.ones((1, 4), np.float32))
        refused(lambda: client.infer("scale", [other]), "unexpected inference input 'z' for model 'scale'", "x")

        unknown = [triton.InferRequestedOutput("z")]
        wrong = "unexpected inference output 'z' for model 'scale'"
        refused(lambda: client.infer("scale", [scale_input()], outputs=unknown), wrong)

        refused(lambda: client.infer("scale", [scale_input()], parameters={"variant": "huge"}), "no variant 'huge'")
        refused(lambda: client.load_model("scale"), "explicit model load / unload is not allowed")


if __name__ == "__main__":
    run_all(dict(globals()))
