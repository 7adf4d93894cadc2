import json

from serving.http.refusal import Refusal


def test_a_refusal_is_a_whole_response() -> None:
    head, _, body = Refusal(431, 'a "b"').render([(b"date", b"now")]).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert set(lines[1:]) == {
        b"date: now",
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
    }
    assert json.loads(body) == {"error": 'a "b"'}
