"""Scores: macro F1 over fixed labels, and intervals over people. No torch."""
