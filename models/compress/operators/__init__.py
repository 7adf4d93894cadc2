"""ONNX operators as PyTorch functions, so that a graph can be trained as it is. `table` lists them."""
