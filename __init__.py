"""contrastill: transfer what networks know."""
