"""Scores on people not seen in training, comparisons, likely label errors, and whether a run is intact. No torch."""
