"""ONNX models, as graphs of tensors."""
