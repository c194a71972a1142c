"""Where teacher outputs come from: live forward passes or a cache on disk."""
