"""What a representation is worth elsewhere: linear probes, and segmentation on top of an encoder."""
