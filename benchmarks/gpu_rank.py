"""A process of gpu_parts.py's two: three steps of three losses, whose banks and maps go to FOLDER/RANK-of-WORLD.pt.

python benchmarks/gpu_rank.py RANK WORLD FOLDER DEVICE
"""

import sys

import torch

from contrastill.core.crd.fresh import FreshCRDLoss
from contrastill.core.crd.loss import CRDLoss

rank, world, folder, device = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if world > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
rows = {}
for name in ("all", "sampled", "fresh"):
    torch.manual_seed(0)
    targets = torch.arange(64) % 4
    loss = (
        FreshCRDLoss(5, 6, targets=targets, num_negatives=9, embed_dim=16)
        if name == "fresh"
        else CRDLoss(5, 6, targets=targets, num_negatives=9, embed_dim=16, negatives=name)
    ).to(device)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    if name == "fresh":
        generator = torch.Generator().manual_seed(9)
        embeddings = torch.randn(64, 6, generator=generator).to(device)
        loss.prepare(0, embeddings, [(torch.arange(64, device=device), embeddings)])
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        values = [torch.randn(8, dim, generator=generator) for dim in (5, 6)]
        values += [torch.randperm(64, generator=generator)[:8]]
        loss(*(value.tensor_split(world)[rank].to(device) for value in values)).backward()
        for parameter in loss.parameters():
            if world > 1:
                shared = parameter.grad.cpu()
                torch.distributed.all_reduce(shared)
                parameter.grad.copy_(shared / world)
        optimizer.step()
        optimizer.zero_grad()
    rows |= {f"{name}.{key}": value.cpu() for key, value in loss.state_dict().items() if torch.is_tensor(value)}
torch.save(rows, f"{folder}/{rank}-of-{world}.pt")
if world > 1:
    # Nobody leaves while another still receives, and threads of a group that is still there when the interpreter ends
    # can abort the process.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
