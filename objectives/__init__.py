"""Objectives, one file each; a file that registers its class here in this folder is found by its name in a config."""
