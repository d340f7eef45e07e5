"""The trained models over new photos.

Inference engine over many models, early exit, predictions, ONNX export, estimate.
"""
