"""Models: recipes, training, inference, combining and scoring. Imports `folds`, never the other way."""
