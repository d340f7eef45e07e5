"""From logits to one of the 18 classes: joint decision, temperatures, offsets, blends of runs, tuning. No torch.

Public: `decide.decide`, `joint.joint_log_probabilities`, `blend.load_blend`, `tune.tune`, `tuning.apply_tuning`,
`members.load_ensembles`, `submission.write_submission`.
"""
