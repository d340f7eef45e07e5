"""Person-grouped, stratified folds and their checks."""
