"""The renderer of the rooms data set."""
