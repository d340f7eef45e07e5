"""What an ensemble is worth on people never seen in training, and which labels its models doubt. No torch.

Public: `evaluate.evaluate`, `compare.compare`, `calibration.calibration`, `audit.audit`.
"""
