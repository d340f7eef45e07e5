"""A data folder: labels, people and photos, label fixes, decoding.

Public: `layout.read_train`, `layout.read_eval`, `people.TrainData`, `labels.encode`, `fixes.read_fixes`,
`decode.read_photo`.
"""
