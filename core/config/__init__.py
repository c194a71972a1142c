"""Configs: the schema, loading with overrides, and the values of YAML as they were written."""
