"""torch's settings while a call of this package lasts, whatever those of its caller are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def own_settings(*, device: bool = True) -> Iterator[None]:
    """Gradients, float32 and no autocast, and the CPU as the default device; the caller's are put back at the end.

    What trains needs gradients inside of ``torch.no_grad`` and ``torch.inference_mode`` too; the precision and the
    device are a config's, and networks, images and weights are float32 unless it says otherwise.

    Args:
        device: Whether any default device is put aside; else only ``meta``, on which nothing has values.

    Example:
        >>> import torch
        >>> with torch.no_grad(), own_settings():
        ...     torch.is_grad_enabled()
        True
    """
    import torch  # here, so that what only describes and checks works where torch cannot be imported

    dtype, default = torch.get_default_dtype(), torch.get_default_device().type
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # Entered where it changes something alone: each of these costs time in every operation.
        if default == "meta" or (device and default != "cpu"):
            stack.enter_context(torch.device("cpu"))
        for kind in {"cpu", default, "cuda"}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
