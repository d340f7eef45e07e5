"""timm models: initial weights, checkpoints, normalisation, TTA, precision, and what makes them fast.

Public: `create.create`, `checkpoint.load_checkpoint`, `engine.fast_engine`, `predict.Predictor`, `tta.stack_views`.
"""
