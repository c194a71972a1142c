"""Whether a network reads its modality in the unit that it was trained with."""

from __future__ import annotations

from ..core.errors import UsageError
from ..core.representation import Network

_OTHER_UNIT = 30  # times the deviation: metres and millimetres, or bytes and counts, are further apart


def check_scale(network: Network, name: str, measured: tuple) -> None:
    """Complain where a network was trained on its modality in another unit than the data's.

    Args:
        network: Has the mean and std that it was trained with.
        name: What it is called.
        measured: Mean and std of the data, see :func:`~.assemble.measure_statistics`.

    Raises:
        UsageError: All channels are further off, wider or narrower than other scenes of one sensor make them.
    """
    own = network.preprocess
    if len(own.mean) != len(measured[0]):
        return  # said elsewhere, where the images are read
    if all(
        abs(mean - its_mean) > _OTHER_UNIT * its_std or not 1 / _OTHER_UNIT < std / its_std < _OTHER_UNIT
        for its_mean, its_std, mean, std in zip(own.mean, own.std, *measured, strict=True)
    ):
        theirs, ours = (
            ", ".join(f"{mean:g} ± {std:g}" for mean, std in zip(*pair, strict=True))
            for pair in ((own.mean, own.std), measured)
        )
        raise UsageError(
            f"{name} was trained on {network.modality} of {theirs} (mean ± deviation), and that of this data is "
            f"{ours}: "
            "bring the data to its unit, or set mean and std of this network if they are meant to differ"
        )
