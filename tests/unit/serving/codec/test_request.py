import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codec.limits import CodecLimits
from serving.codec.request import RequestedOutput
from serving.core.errors import InvalidRequest, PayloadTooLarge

MISSHAPEN = "unexpected shape for input 'image' for model 'fashion'. Expected [-1,28,28], got"
TOO_FEW = "expected 4 inputs but got 0 inputs for model 'fashion'. Got input(s)"
ALL_PLEASE = "Please provide all required input(s)."
TOO_MANY = "inference request batch-size must be <= 256 for 'fashion', got"


@pytest.fixture(scope="module")
def image(wire: Any) -> Any:
    """One batchable image input."""
    return wire.family([wire.spec("image", "UINT8", (-1, 28, 28))])


@pytest.fixture(scope="module")
def mixed(wire: Any) -> Any:
    """Every kind of datatype, batchable."""
    return wire.family(
        [
            wire.spec("f", "FP32", (-1, 2)),
            wire.spec("i", "INT64", (-1,)),
            wire.spec("b", "BOOL", (-1,)),
            wire.spec("t", "BYTES", (-1,)),
        ],
        [wire.spec("y", "FP32", (-1, 10)), wire.spec("z", "INT64", (-1,)), wire.spec("t", "BYTES", (-1,))],
        max_batch_rows=4,
    )


def mixed_body(wire: Any, *, rows: int = 2, **more: Any) -> tuple[bytes, int]:
    """`f` and `t` are binary; `i` and `b` are JSON."""
    f = np.arange(2 * rows, dtype="<f4").tobytes()
    t = b"".join(len(text).to_bytes(4, "little") + text for text in [b"\xff", b"bc", b"", b"d"][:rows])
    head = wire.body(
        wire.tensor("f", "FP32", [rows, 2], binary_data_size=len(f)),
        wire.tensor("i", "INT64", [rows], list(range(rows))),
        wire.tensor("t", "BYTES", [rows], binary_data_size=len(t)),
        wire.tensor("b", "BOOL", [rows], [True] * rows),
        **more,
    )
    return head + f + t, len(head)


def refusal(wire: Any, sent: bytes, of: Any, **more: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        wire.decode(sent, of, **more)
    return str(caught.value)


def test_a_json_request(wire: Any, image: Any) -> None:
    pixels = np.arange(2 * 784).reshape(2, 28, 28) % 256
    sent = wire.body(wire.tensor("image", "UINT8", [2, 28, 28], pixels.tolist()), id="a", extra={"x": [None]})

    request = wire.decode(sent, image)

    assert np.array_equal(request.inputs["image"], pixels)
    assert request.inputs["image"].dtype == np.uint8
    assert (request.id, request.rows, request.parameters, request.outputs) == ("a", 2, {}, ())
    assert not request.binary_output_default


def test_binary_and_json_inputs_mix_in_the_order_sent(wire: Any, mixed: Any) -> None:
    sent, header_length = mixed_body(wire)

    request = wire.decode(sent, mixed, header_length=header_length)

    assert request.rows == 2
    assert request.inputs["f"].tolist() == [[0, 1], [2, 3]]
    assert request.inputs["i"].tolist() == [0, 1]
    assert request.inputs["t"].tolist() == [b"\xff", b"bc"]
    assert request.inputs["b"].tolist() == [True, True]


def test_null_sections_are_absent_sections(wire: Any, image: Any) -> None:
    entry = {**wire.tensor("image", "UINT8", [1, 28, 28], [0] * 784), "parameters": None}
    request = wire.decode(wire.body(entry, id=None, parameters=None, outputs=None), image)
    assert (request.id, request.parameters, request.outputs) == (None, {}, ())


def test_an_empty_id_is_no_id(wire: Any, image: Any) -> None:
    sent = wire.body(wire.tensor("image", "UINT8", [1, 28, 28], [0] * 784), id="")
    assert wire.decode(sent, image).id is None


def test_outputs_and_their_form(wire: Any, mixed: Any) -> None:
    outputs = [
        {"name": "y", "parameters": {"classification": 3, "binary_data": False}},
        {"name": "z"},
        {"name": "t", "parameters": {"binary_data": True, "other": []}},
    ]
    for default in (True, False):
        parameters = {"binary_data_output": default, "latency_budget_ms": 20, "prefer": "energy", "x": 1.5}
        sent, header_length = mixed_body(wire, outputs=outputs, parameters=parameters)
        request = wire.decode(sent, mixed, header_length=header_length)
        assert request.outputs == (
            RequestedOutput("y", binary=False, classification=3),
            RequestedOutput("z", binary=default),
            RequestedOutput("t", binary=True),
        )
        assert request.binary_output_default is default
        assert request.parameters == parameters


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "x"}, "unexpected inference input 'x' for model 'fashion': it expects image"),
        ({"name": "x" * 99}, f"unexpected inference input '{'x' * 64}...' for model 'fashion': it expects image"),
        ({"datatype": "FP32"}, "inference input 'image' data-type is 'FP32', but model 'fashion' expects 'UINT8'"),
        ({"datatype": "uint8"}, "inference input 'image' data-type is 'uint8', but model 'fashion' expects 'UINT8'"),
        ({"shape": [1, 28, 27]}, f"{MISSHAPEN} [1,28,27]."),
        ({"shape": [28, 28]}, f"{MISSHAPEN} [28,28]."),
        ({"shape": []}, f"{MISSHAPEN} []."),
        ({"shape": [1] * 99}, f"{MISSHAPEN} 99 dimensions."),
        ({"shape": [10**99, 1]}, f"{MISSHAPEN} 2 dimensions."),
        ({"shape": [-1, 28, 28]}, "input 'image': each dimension must be from 0 to 2147483647"),
        ({"shape": [2**32, 28, 28]}, "input 'image': each dimension must be from 0 to 2147483647"),
        ({"shape": [2**31 - 1, 28, 28]}, f"{TOO_MANY} 2147483647 rows"),
        ({"shape": [0, 28, 28]}, "expected 1 to 256 rows (first dimension) in one request, got 0"),
        ({"shape": [257, 28, 28]}, f"{TOO_MANY} 257 rows"),
        ({"shape": [1.0, 28, 28]}, "input 'image': shape: Expected `int`, got `float` - at `$[0]`"),
        ({"shape": [True, 28, 28]}, "input 'image': shape: Expected `int`, got `bool` - at `$[0]`"),
        ({"shape": None}, "input 'image': shape: Expected `array`, got `null`"),
        ({"shape": "1"}, "input 'image': shape: Expected `array`, got `str`"),
        ({"data": [0] * 783}, "input 'image': expected 784 values for shape [1,28,28], got 783"),
        ({"data": None}, "input 'image': expected data, or binary_data_size in its parameters"),
        ({"data": {}}, "input 'image': expected data to be an array"),
        ({"parameters": {"binary_data_size": 784}}, "input 'image': expected data or binary_data_size, got both"),
        ({"parameters": {"shared_memory_region": "r"}}, "input 'image': shared memory is not offered"),
        ({"parameters": 7}, "input 'image': parameters: Expected `object`, got `int`"),
        ({"parameters": {"binary_data_size": -1}},
         "input 'image': parameters: Expected `int` >= 0 - at `$.binary_data_size`"),
        ({"parameters": {"binary_data_size": True}},
         "input 'image': parameters: Expected `int | null`, got `bool` - at `$.binary_data_size`"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_input(wire: Any, image: Any, changes: dict[str, Any], text: str) -> None:
    entry = {**wire.tensor("image", "UINT8", [1, 28, 28], [0] * 784), **changes}
    assert refusal(wire, wire.body(entry), image) == text


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"outputs": [{"name": "q"}]}, "unexpected inference output 'q' for model 'fashion': it answers with y, z, t"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' is asked for twice"),
        ({"outputs": [{"name": "t", "parameters": {"classification": 1}}]},
         "output 't': classification needs scores, not BYTES"),
        ({"outputs": [{"name": "y", "parameters": {"classification": -1}}]},
         "outputs: Expected `int` >= 0 - at `$[0].parameters.classification`"),
        ({"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
         "output 'y': shared memory is not offered"),
        ({"outputs": {}}, "outputs: Expected `array`, got `object`"),
        ({"parameters": {"binary_data_output": 1}}, "parameters: binary_data_output must be true or false"),
        ({"parameters": {"x": None}}, "parameters: Expected `bool | int | float | str`, got `null` - at `$[...]`"),
        ({"parameters": {"x": {}}}, "parameters: Expected `bool | int | float | str`, got `object` - at `$[...]`"),
        ({"parameters": {"x": 2**64}}, "parameters: an integer beyond 64 bits"),
        ({"id": 7}, "request body: Expected `str | null`, got `int` - at `$.id`"),
        ({"inputs": 7}, "request body: Expected `array`, got `int` - at `$.inputs`"),
        ({"inputs": []}, f"{TOO_FEW} [], but missing required input(s) ['f','i','b','t']. {ALL_PLEASE}"),
    ],
)  # fmt: skip
def test_what_is_wrong_around_the_inputs(wire: Any, mixed: Any, more: dict[str, Any], text: str) -> None:
    sent, header_length = mixed_body(wire)
    head = json.dumps({**json.loads(sent[:header_length]), **more}).encode()
    assert refusal(wire, head + sent[header_length:], mixed, header_length=len(head)) == text


def test_inputs_are_given_once_and_all(wire: Any, mixed: Any) -> None:
    i, b = wire.tensor("i", "INT64", [1], [1]), wire.tensor("b", "BOOL", [1], [True])
    assert refusal(wire, wire.body(i, b, i), mixed) == "input 'i' already exists in request"
    assert refusal(wire, wire.body(i, b), mixed) == (
        "expected 4 inputs but got 2 inputs for model 'fashion'. Got input(s) ['i','b'], but missing required input(s) "
        f"['f','t']. {ALL_PLEASE}"
    )


def test_inputs_agree_on_rows(wire: Any) -> None:
    pair = wire.family([wire.spec("i", "INT64", (-1,)), wire.spec("j", "INT64", (-1,))])
    sent = wire.body(wire.tensor("i", "INT64", [1], [1]), wire.tensor("j", "INT64", [2], [1, 2]))
    assert refusal(wire, sent, pair) == "inputs disagree on the number of rows (first dimension): 1, 2"


def test_a_family_that_cannot_be_batched_is_one_row(wire: Any) -> None:
    fixed = wire.family([wire.spec("x", "FP32", (3, -1))], [wire.spec("y", "FP32", (3,))])
    assert wire.decode(wire.body(wire.tensor("x", "FP32", [3, 2], [0.5] * 6)), fixed).rows == 1
    empty = wire.decode(wire.body(wire.tensor("x", "FP32", [3, 0], [])), fixed)
    assert empty.inputs["x"].shape == (3, 0)
    assert "Expected [3,-1], got [2,1]" in refusal(wire, wire.body(wire.tensor("x", "FP32", [2, 1], [1, 2])), fixed)


def test_free_axes_behind_the_rows_may_be_empty_but_not_absurd(wire: Any) -> None:
    free = wire.family([wire.spec("x", "FP32", (-1, -1, -1, -1))])
    assert wire.decode(wire.body(wire.tensor("x", "FP32", [2, 0, 5, 1], [])), free).inputs["x"].shape == (2, 0, 5, 1)
    big = 2**31 - 1
    assert "is too large" in refusal(wire, wire.body(wire.tensor("x", "FP32", [1, 0, big, big], [])), free)
    huge = wire.tensor("x", "FP32", [1, big, big, big], [0.5])
    assert f"expected {big**3} values" in refusal(wire, wire.body(huge), free)


@pytest.mark.parametrize("header_length", [-1, 10_000])
def test_a_header_length_outside_of_the_body(wire: Any, mixed: Any, header_length: int) -> None:
    sent, _ = mixed_body(wire)
    text = refusal(wire, sent, mixed, header_length=header_length)
    assert text == f"Inference-Header-Content-Length: expected 0 to {len(sent)} (the length of the body)"


def test_every_cut_and_every_extra_byte_is_noticed(wire: Any, mixed: Any) -> None:
    sent, header_length = mixed_body(wire)
    for cut in range(header_length, len(sent)):
        assert "left" in refusal(wire, sent[:cut], mixed, header_length=header_length)
    for cut in range(1, header_length):
        refusal(wire, sent, mixed, header_length=cut)
    assert refusal(wire, sent + b"x", mixed, header_length=header_length) == "1 bytes after the last binary tensor"
    refusal(wire, sent, mixed)


def test_bytes_after_a_request_without_binary_tensors(wire: Any, image: Any) -> None:
    sent = wire.body(wire.tensor("image", "UINT8", [1, 28, 28], [0] * 784))
    assert refusal(wire, sent + b"abc", image, header_length=len(sent)) == "3 bytes after the last binary tensor"
    assert wire.decode(sent, image, header_length=len(sent)).rows == 1


def test_a_raw_body_is_the_only_input(wire: Any, image: Any) -> None:
    pixels = bytes(range(256)) * 49  # 16 rows
    request = wire.decode(pixels, image, header_length=0)
    assert request.inputs["image"].shape == (16, 28, 28)
    assert request.inputs["image"].tobytes() == pixels
    assert request.rows == 16
    assert request.binary_output_default
    assert refusal(wire, pixels[:-1], image, header_length=0) == (
        "input 'image': expected a multiple of 784 bytes, got 12543"
    )
    assert "rows" in refusal(wire, b"", image, header_length=0)
    assert "rows" in refusal(wire, bytes(784 * 257), image, header_length=0)


def test_raw_bodies_of_other_shapes(wire: Any, mixed: Any) -> None:
    fixed = wire.family([wire.spec("x", "INT16", (2, 3))], [wire.spec("y", "FP32", (1,))])
    assert wire.decode(bytes(12), fixed, header_length=0).inputs["x"].shape == (2, 3)
    assert refusal(wire, bytes(24), fixed, header_length=0) == "input 'x': expected 12 bytes, got 24"
    text = wire.family([wire.spec("t", "BYTES", (-1, 1))])
    assert wire.decode(b"any \xff text", text, header_length=0).inputs["t"].tolist() == [[b"any \xff text"]]
    assert "one element" in refusal(wire, b"", wire.family([wire.spec("t", "BYTES", (-1, 2))]), header_length=0)
    free = wire.family([wire.spec("x", "FP32", (-1, -1))])
    assert "does not give the shape [-1,-1]" in refusal(wire, b"", free, header_length=0)
    assert "needs a model of one input" in refusal(wire, b"", mixed, header_length=0)
    nan = wire.family([wire.spec("x", "FP32", (-1,))])
    assert "NaN" in refusal(wire, np.float32(math.nan).tobytes(), nan, header_length=0)


def test_bf16_is_binary_only(wire: Any) -> None:
    bf16 = wire.family([wire.spec("x", "BF16", (-1,))], [wire.spec("y", "BF16", (-1, 2))])
    head = wire.body(wire.tensor("x", "BF16", [1], binary_data_size=2), parameters={"binary_data_output": True})
    assert wire.decode(head + b"\x80\x3f", bf16, header_length=len(head)).inputs["x"].tolist() == [0x3F80]
    assert "BF16 has no JSON form" in refusal(wire, head.replace(b"true", b"false"), bf16, header_length=len(head) + 1)
    named = wire.body(wire.tensor("x", "BF16", [1], binary_data_size=2), outputs=[{"name": "y"}])
    assert "BF16 has no JSON form" in refusal(wire, named + b"\x80\x3f", bf16, header_length=len(named))
    best = named.replace(b'"y"', b'"y","parameters":{"classification":1}')
    assert wire.decode(best + b"\x80\x3f", bf16, header_length=len(best)).outputs[0].classification == 1


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (CodecLimits(max_json_bytes=99), "the JSON part is longer than 99 bytes"),
        (CodecLimits(max_binary_bytes=9), "the binary part is longer than 9 bytes"),
        (CodecLimits(max_tensors=3), "inputs: more than 3"),
        (CodecLimits(max_parameters=1), "parameters: more than 1"),
        (CodecLimits(max_section_bytes=9), "parameters: longer than 9 bytes of JSON"),
        (CodecLimits(max_text_chars=5), "parameters: a text longer than 5 characters"),
        (CodecLimits(max_text_chars=4), "id: longer than 4 characters"),
        (CodecLimits(max_objects=1), "input 't': more than 1 BYTES elements"),
    ],
)
def test_limits(wire: Any, mixed: Any, limits: CodecLimits, text: str) -> None:
    sent, header_length = mixed_body(wire, id="12345", parameters={"p": "123456", "q": 1})
    with pytest.raises(PayloadTooLarge) as caught:
        wire.decode(sent, mixed, header_length=header_length, limits=limits)
    assert str(caught.value) == text


def test_asked_outputs_are_bounded(wire: Any, image: Any) -> None:
    sent = wire.body(wire.tensor("image", "UINT8", [1, 28, 28], []), outputs=[{"name": "scores"}] * 65)
    assert refusal(wire, sent, image) == "outputs: more than 64"


@pytest.mark.parametrize(
    "sent",
    [
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,28,28],"data":' + b"[" * 1_000_000,
        b'{"inputs":[],"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
        b'{"inputs":[],"parameters":{"x":' + b"[" * 1_000_000,
        b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,28,28],"data":'
        + b"[" * 500 + b"1" + b"]" * 500 + b"}]}",
    ],
)  # fmt: skip
def test_deep_nesting_is_refused(wire: Any, image: Any, sent: bytes) -> None:
    refusal(wire, sent, image)


@pytest.mark.parametrize(
    "sent", [b"", b"null", b"[]", b"{}", b'{"inputs":null}', b"\xff", b'{"inputs":[]} x', b"\xef\xbb\xbf{}"]
)
def test_bodies_that_are_no_request(wire: Any, image: Any, sent: bytes) -> None:
    refusal(wire, sent, image)


def test_text_that_is_not_utf8(wire: Any, image: Any) -> None:
    assert refusal(wire, b'{"inputs":[],"id":"\xff"}', image) == "request body: text is not valid UTF-8"


def survives(wire: Any, sent: bytes, of: Any, header_length: int | None) -> None:
    """Arrays that fit the family, or an error of ours: nothing else."""
    try:
        request = wire.decode(sent, of, header_length=header_length)
    except InvalidRequest as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert len(refused) < 1000
        return
    assert 1 <= request.rows <= of.max_batch_rows
    for spec in of.inputs:
        array = request.inputs[spec.name]
        assert array.flags.c_contiguous
        assert len(array.shape) == len(spec.shape)
        assert array.shape[0] == request.rows


HEADER_LENGTHS = st.none() | st.integers(-2, 400)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(sent=st.binary(max_size=200), header_length=HEADER_LENGTHS)
def test_any_bytes(wire: Any, image: Any, mixed: Any, sent: bytes, header_length: int | None) -> None:
    survives(wire, sent, image, header_length)
    survives(wire, sent, mixed, header_length)


@given(data=st.data())
def test_requests_with_any_bytes_changed(wire: Any, mixed: Any, data: st.DataObject) -> None:
    sent, header_length = mixed_body(wire, id="7", parameters={"priority": 1}, outputs=[{"name": "y"}])
    changed = bytearray(sent)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed)))
        stop = data.draw(st.integers(start, min(start + 4, len(changed))))
        changed[start:stop] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"null", b"true", b"-1", b"1e999", b"[[", b"9" * 30, b'"'])
        )
    survives(wire, bytes(changed), mixed, data.draw(st.just(header_length) | HEADER_LENGTHS))


@given(data=st.data())
def test_requests_with_any_member_replaced(wire: Any, mixed: Any, data: st.DataObject) -> None:
    sent, header_length = mixed_body(
        wire, id="7", parameters={"priority": 1}, outputs=[{"name": "y", "parameters": {}}]
    )
    document = json.loads(sent[:header_length])
    holder, key = data.draw(st.sampled_from(list(places(document))))
    holder[key] = data.draw(JSON)
    head = json.dumps(document).encode()
    survives(wire, head + sent[header_length:], mixed, len(head))


def places(node: Any) -> Any:
    """Every member of every object and array below a node."""
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, child in items:
        yield node, key
        yield from places(child)


def test_arrays_may_be_read_only_but_own_what_they_need(wire: Any, image: Any) -> None:
    sent = orjson.dumps({"inputs": [wire.tensor("image", "UINT8", [1, 28, 28], [7] * 784)]})
    array = wire.decode(sent, image).inputs["image"]
    del sent
    assert array.sum() == 7 * 784
