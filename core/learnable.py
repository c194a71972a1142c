"""Whether a student can learn at all: its weights, and what objectives read of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from .entry_checks import kind_of
from .errors import UsageError
from .first_step import hidden_weights
from .representation import Network, Representation


def check_weights(teachers: Sequence[Network], student: Network) -> None:
    """Refuse a student that has weights of a teacher, which are frozen, and weights that cannot train.

    Raises:
        UsageError: It shares a parameter with a teacher, has some in half precision or of inference mode, or some where
            torch does not find them.
    """
    for name, weight in hidden_weights(student.module):
        holder, _, attribute = name.rpartition(".")
        tensor = getattr(student.module.get_submodule(holder), attribute, None) is weight
        way_out = "make it an nn.Parameter" if tensor else "use nn.ModuleList, ModuleDict or ParameterDict"
        raise UsageError(
            f"the student has weights in {name} that are not saved and do not follow it to a device, as torch does not "
            f"find them there: {way_out}, or requires_grad_(False) where they are to stay"
        )
    own = {id(parameter): name for name, parameter in student.module.named_parameters()}
    if not own:
        raise UsageError(
            "the student has no parameters (a quantised or frozen copy?), and a training learns those: hand over "
            "the network before that"
        )
    for number, teacher in enumerate(teachers):
        shared = next((own[id(parameter)] for parameter in teacher.parameters() if id(parameter) in own), None)
        if shared is not None:
            raise UsageError(
                f"the student has weights of teacher {number} ({shared}), which stay as they are: give each a "
                "module of its own (copy.deepcopy)"
            )
    for name, parameter in student.module.named_parameters():
        if parameter.is_inference():
            raise UsageError(
                f"the student's {name} was made in torch.inference_mode and cannot train: make the student "
                "outside of it"
            )
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            raise UsageError(
                f"the student's {name} is {str(parameter.dtype).removeprefix('torch.')}, and its steps would be "
                "lost in rounding: "
                "call student.float(), and compute in half precision with train.precision=bf16"
            )


def check_extra_state(what: str, module: nn.Module) -> None:
    """Refuse what a module adds to its state and is no tensor, as a checkpoint holds nothing else.

    Args:
        what: Names the module in the message.
        module: With its parts.

    Raises:
        UsageError: One's ``get_extra_state`` returns something else.
    """
    for name, part in module.named_modules():
        if type(part).get_extra_state is nn.Module.get_extra_state:
            continue
        if not isinstance(state := part.get_extra_state(), Tensor):
            place = f"{what}'s {name}" if name else what
            raise UsageError(
                f"get_extra_state of {place} ({type(part).__name__}) returns {kind_of(state)}, and checkpoints and "
                "weights hold tensors alone: return a tensor, or keep each value by self.register_buffer(name, tensor)"
            )


def check_learning(student: Network, outputs: Representation, reads: Mapping[str, Collection[str]]) -> None:
    """Refuse objectives by which the student does not learn: what they read of it has no gradient.

    Args:
        student: The network.
        outputs: Its representation of a batch, with the graph.
        reads: Name of an objective -> parts that it reads of the student.

    Raises:
        UsageError: No parameter trains, or none that such a part depends on.
    """
    if not any(parameter.requires_grad for parameter in student.module.parameters()):
        frozen = f"train.freeze={list(student.frozen_modules)}" if student.frozen_modules else "requires_grad is False"
        raise UsageError(f"the student has no parameter that trains ({frozen} for all): unfreeze what is to learn")
    for name, parts in reads.items():
        if parts and not any(value.requires_grad for part in parts for value in outputs.only(part).tensors()):
            raise UsageError(
                f"objective {name} reads the student's {' and '.join(sorted(parts))}, which depends on no "
                "parameter that trains (a frozen part, detach() or no_grad() in the network): "
                "unfreeze that part, tap another module, or take the objective out"
            )
