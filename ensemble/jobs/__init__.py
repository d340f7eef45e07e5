"""Jobs: one task and one fold each, planned, and what they leave in the run folder.

Status, locks, histories, model cards and out-of-fold logits. No torch.
"""
