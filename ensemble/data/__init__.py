"""Photos on their way to a model: decoded-photo cache, batches, augmentation, mixing, sampling.

Public: `cache.open_photos`, `loader.train_loader`, `loader.plain_batches`, `load.load_photo`,
`augment.Augment`, `masks.draw_masks`, `mixing.mix_batch`.
"""
