"""Person-grouped, stratified folds and their checks.

Public: `split.make_folds`, `split.check_folds`, `split.read_folds`, `ranges.parse_folds`.
"""
