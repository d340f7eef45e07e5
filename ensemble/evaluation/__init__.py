"""What an ensemble is worth on people never seen in training, and which labels its models doubt.

Score, comparison of runs, calibration, label audit. No torch.
"""
