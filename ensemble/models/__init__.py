"""timm models: built, kept, and made fast without another answer.

Initial weights, checkpoints, normalisation, TTA, precision, conv-bn folding, inference engine.
"""
