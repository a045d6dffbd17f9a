"""Models and their quality: the demo, training and evaluation.

Imports scikit-learn and Keras only when they are used.
"""
