"""What an ensemble is worth on people never seen in training, which labels its models doubt, and whether a run is
intact. No torch.
"""
