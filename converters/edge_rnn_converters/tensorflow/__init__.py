"""SavedModel folders that say nothing of layers: a signature's graph, with TensorFlow."""
