"""HTTP/2 as a gRPC server needs it (RFC 9113, RFC 7541): frames, header compression, flow control, limits."""
