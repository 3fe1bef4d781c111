"""From videos and sentences to batches of frozen features: decode, encode, store, stream."""
