"""Where servers run: on this machine, or on Kubernetes.

Starts, stops and scales servers; sends no predictions.
"""
