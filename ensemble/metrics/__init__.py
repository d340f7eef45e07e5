"""Scores: macro F1 over fixed labels, and intervals over people. No torch.

Public: `scores.score`, `scores.macro_f1`, `bootstrap.interval`, `heads.head_decisions`,
`heads.head_log_probabilities`.
"""
