"""What tritonclient raises when a server refuses, over HTTP and gRPC alike."""

from tritonclient.utils import InferenceServerException


def refused(call, *texts):
    """Fail unless the call is refused with a message that holds all the texts."""
    try:
        call()
    except InferenceServerException as error:
        message = error.message()
        assert all(text in message for text in texts), message
        return
    raise AssertionError("the call went through")
