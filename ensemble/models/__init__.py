"""timm models: initial weights, checkpoints, TTA, precision, and the engines that run them."""
