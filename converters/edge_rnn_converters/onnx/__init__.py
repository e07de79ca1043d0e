"""ONNX models, and the symbolic execution of graphs of tensors."""
