"""What may be set on a CRD loss that is built: τ and b of its critic, and how fast its rows move."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

from ..errors import UsageError
from ..set_arguments import SetArguments
from .negatives import NegativeSampler
from .options import critic_bias


class CriticSettings(SetArguments):
    """Base of losses with a critic h = sigmoid(s/τ − b), whose b follows τ where it is worked out from it.

    Attributes:
        temperature: τ; may be set at any step.
        bias: b as a float; ``"released"``, ``"paper"`` or a number may be set.
    """

    num_negatives: int
    num_samples: int
    embed_dim: int

    def set_critic(self, temperature: float, bias: Any) -> None:
        """Set τ and the option that b comes from.

        Raises:
            UsageError: τ is not above 0 and finite, or there is no such b.
        """
        if not 0 < temperature < math.inf:
            raise UsageError(f"temperature must be above 0 and finite, not {temperature}")
        self._bias(bias, temperature)
        self._temperature, self._bias_option = float(temperature), bias

    @property
    def temperature(self) -> float:
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.set_critic(value, self._bias_option)

    @property
    def bias(self) -> float:
        return self._bias(self._bias_option, self._temperature)

    @bias.setter
    def bias(self, value: Any) -> None:
        self.set_critic(self._temperature, value)

    def _bias(self, option: Any, temperature: float) -> float:
        return critic_bias(option, self.num_negatives, self.num_samples, self.embed_dim, temperature)


class BankSettings(CriticSettings):
    """Those of a loss whose rows are written as they move: K and the seed are those of the rule of its negatives.

    Attributes:
        bank_momentum: Share of its old value that a row keeps, or ``"visits"``; may be set at any step.
    """

    # The bank, its order and the rule of its negatives are made from these.
    fixed = frozenset(
        {"num_samples", "embed_dim", "num_negatives", "negatives", "negatives_from", "seed", "bank_init", "teacher_map"}
    )
    rule: NegativeSampler
    _of_bank: dict[str, Any]

    @property
    def num_negatives(self) -> int:  # type: ignore[override]  # the rule's own
        return self.rule.num_negatives

    @property
    def seed(self) -> int:
        return self.rule.seed

    @property
    def bank_momentum(self) -> float | Literal["visits"]:
        return self._bank_momentum

    @bank_momentum.setter
    def bank_momentum(self, value: float | Literal["visits"]) -> None:
        if value != "visits" and (isinstance(value, str) or not 0 <= value < 1):
            raise UsageError(
                f"bank_momentum is the share of its value a row keeps, in [0, 1), or 'visits', not {value!r}"
            )
        if value == "visits" and not self._of_bank["count_visits"]:
            raise UsageError("bank_momentum='visits' needs a bank that counts them: build another loss with it")
        self._bank_momentum: float | Literal["visits"] = value if value == "visits" else float(value)

    def set_critic(self, temperature: float, bias: Any) -> None:
        super().set_critic(temperature, bias)
        ceiling = 1 / (1 + math.exp(min(700.0, self.bias - 1 / self.temperature)))
        if ceiling < 0.5:
            warnings.warn(
                f"with temperature {temperature:g} and bias {self.bias:.3g} the positive's probability cannot "
                f"pass {ceiling:.2g}: "
                "lower the temperature, or use bias='paper'",
                stacklevel=3,
            )
