"""Graphs of tensors, of whatever framework, executed symbolically into a model."""
