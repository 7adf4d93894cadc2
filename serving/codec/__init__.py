"""Open Inference Protocol v2 on the wire <-> numpy arrays; merging and splitting of batches."""
