"""From logits to one of the 18 classes.

Joint decision, temperatures, offsets, blends of runs, tuning, submissions. No torch.
"""
