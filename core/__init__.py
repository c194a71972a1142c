"""The shared core: it knows no task, no dataset and no architecture."""
