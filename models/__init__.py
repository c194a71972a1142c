"""Networks by name; a file in this folder that registers a builder is found by its name in a config."""
