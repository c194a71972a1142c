"""How long a training is where its config does not say so."""

from __future__ import annotations

# Samples that a training of default length shows the student, and the bounds of its epochs.
SAMPLES, SHORTEST, LONGEST = 3_000_000, 20, 240


def default_epochs(num_samples: int) -> int:
    """Epochs that suit the size of the data: as many as show the student some three million samples, between 20 and
    240.

    Example:
        >>> [default_epochs(count) for count in (1000, 20_000, 50_000, 1_281_167)]
        [240, 150, 60, 20]
    """
    return min(max(round(SAMPLES / num_samples), SHORTEST), LONGEST)
