"""The trained models over new photos: many models at once, early exit, predictions, ONNX export, estimate.

Public: `infer.infer`, `settings.InferenceSettings`, `predictions.photo_predictions`, `export.export`,
`estimate.estimate_inference`.
"""
