"""Blocks of rows to predictions. It never imports Keras, TensorFlow or a web framework."""
