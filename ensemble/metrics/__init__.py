"""Scores: macro F1 over fixed labels, and intervals over people.

Labels from a head's logits, macro F1, bootstrap. No torch.
"""
