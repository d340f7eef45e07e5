"""The trained models over photos: the predictor, inference in one process or in shards, ONNX export."""
