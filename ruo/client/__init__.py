"""Blocks of rows to predictions: what `ruo.score_csv` does.

The only folder that sends requests for predictions; it never imports Keras, TensorFlow or a web framework.
"""
