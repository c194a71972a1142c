"""The demo: every transfer on rendered rooms, with no download."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ..core.arguments import checked
from ..core.cores import available_cores
from ..core.errors import ContrastillError, UsageError
from ..core.generators import own_generators
from ..core.run import writable_folder
from ..core.spawned import check_guarded, environment_of, last_line, leave_script, start_process, stopping
from ..core.torch_settings import own_settings
from ..datasets.rendered_rooms import RENDERED, Frames
from .demo_comparisons import DemoComparisons
from .demo_result import Comparison, DemoResult
from .demo_trainings import COLOUR, DENSE, DEPTH
from .messages import printer
from .train import Overrides, overrides_as_text

_ORDER = ("compression", "ensemble", DEPTH, COLOUR, DENSE, "probe")
_ASIDE = (COLOUR, DENSE)  # they have teachers of their own
_TOGETHER = tuple(name for name in _ORDER if name not in _ASIDE)


@checked
@own_settings()
@own_generators()
def run_demo(
    out: str | os.PathLike = "runs/demo",
    seed: int = 0,
    overrides: Overrides = (),
    *,
    jobs: int | None = 1,
    progress: bool = True,
) -> DemoResult:
    """Train and compare networks on rendered rooms: compression, an ensemble, RGB to depth, lightness to colour,
    a depth segmenter of an RGB segmenter, and probes on other rooms.

    Args:
        out: The folder; finished runs in it are kept. Each comparison is also in a ``comparison.json``.
        seed: Of every training but the second teacher's, which has the next one.
        overrides: Settings of every training, such as ``train.epochs=3``.
        jobs: 2 makes the comparisons that share no network with the others in a second process, each with half of the
            threads; None does so where there are two cores and no GPU. A script that calls it so needs
            ``if __name__ == "__main__":``.
        progress: Whether to show progress on standard error.

    Raises:
        UsageError: An unknown setting, or a folder that holds runs with other settings.
        ContrastillError: A training failed or was stopped; the same call goes on.
    """
    leave_script()
    if jobs not in (None, 1, 2):
        raise UsageError(f"jobs={jobs}: the demo works in 1 or 2 processes")
    demo = DemoComparisons(writable_folder(out), seed, overrides_as_text(overrides), progress)
    with _beside(demo) if (jobs or _jobs()) == 2 else nullcontext(partial(demo.compare, _ASIDE)) as compare_others:
        comparisons = demo.compare(_TOGETHER)
        comparisons |= compare_others()
    return DemoResult({name: comparisons[name] for name in _ORDER})


def _jobs() -> int:
    """Two where a second process pays: small networks hardly gain by a second thread."""
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    return 2 if available_cores() > 1 and alone and not torch.cuda.is_available() else 1


@contextmanager
def _beside(demo: DemoComparisons) -> Iterator[Callable[[], dict[str, Comparison]]]:
    """Make the comparisons of _ASIDE in a second process while others are made here; yields what waits for them."""
    log, environment = demo.out / "second_process.log", environment_of(2, None)
    receiver, sender = Pipe(duplex=False)
    say, threads = printer(demo.progress), torch.get_num_threads()
    with stopping(), receiver:
        demo.open_frames()
        process = start_process(_compare_aside, (sender, *demo.arguments(), RENDERED), log, environment)
        sender.close()
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
        say(f"{' and '.join(_ASIDE)}: at the same time, in a second process; its log is {log}")

        def received() -> dict[str, Comparison]:
            say(f"waiting for {' and '.join(_ASIDE)}")
            try:
                return receiver.recv()
            except EOFError:
                process.join()
                check_guarded(process.exitcode)
                error = ContrastillError(f"{' and '.join(_ASIDE)}: {last_line(log) or 'the second process ended'}")
                error.exit_code = process.exitcode if process.exitcode in (2, 130, 143) else 1
                raise error from None

        try:
            yield received
        finally:
            torch.set_num_threads(threads)
            process.terminate()
            process.join()


def _compare_aside(
    sender: Connection,
    out: Path,
    seed: int,
    overrides: Sequence[str],
    progress: bool,
    frames: Mapping[tuple[int, ...], Frames],
) -> None:
    RENDERED.update(frames)
    with own_settings(), own_generators():
        sender.send(DemoComparisons(out, seed, overrides, progress).compare(_ASIDE))
