"""Keras and TensorFlow models, from their files alone."""
