"""From logits to one of the 18 classes: joint decision, ensembles of runs, tuning, the CSV. No torch."""
