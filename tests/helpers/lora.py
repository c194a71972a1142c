"""A layer that changes its weights as it goes between training and eval mode."""

import torch
from torch import nn


class Lora(nn.Linear):
    """Adds its product to the weight in eval mode, as loralib does."""

    def __init__(self, scale=0.02):
        super().__init__(6, 6)
        self.lora_a, self.lora_b = nn.Parameter(torch.ones(2, 6)), nn.Parameter(torch.full((6, 2), scale))
        self.weight.requires_grad = self.bias.requires_grad = False
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.lora_b @ self.lora_a)
            self.merged = not mode
        return self

    def forward(self, x):
        return super().forward(x) + (0 if self.merged else x @ self.lora_a.T @ self.lora_b.T)
