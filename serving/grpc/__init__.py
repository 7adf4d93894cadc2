"""gRPC: calls over HTTP/2, and the services of the Open Inference Protocol, health and reflection on top."""
