"""TensorFlow Lite (LiteRT) models: read as a graph of tensors, run by LiteRT."""
