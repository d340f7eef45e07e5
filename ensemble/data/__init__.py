"""Photos on their way to a model.

Decoded-photo cache, batches, augmentation, mixing, sampling.
"""
