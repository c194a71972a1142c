"""The shared CRD core: the losses, their memory banks, negatives and criterion."""
