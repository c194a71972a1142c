"""One run, from a validated config to a trained student, and the one call that does all of it."""
