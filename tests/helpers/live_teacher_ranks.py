"""Teacher outputs cached by several processes, and a student trained on them; run by
test_cache_ranks.py, by one process or by several.

Writes FOLDER/outputs, FOLDER/RANK.json (a hash of all that is kept in memory and of all that comes from the folder, and
how many samples the teacher was shown for each) and FOLDER/RANK.safetensors, the student's and the bank's state and the
losses of each epoch.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from contrastill.core.config.schema import TrainConfig
from contrastill.core.objective import Setting
from contrastill.core.representation_spec import describe
from contrastill.core.teachers import cache_shard
from contrastill.core.teachers.cache import CachedTeachers
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.objectives.crd import CRD
from contrastill.objectives.kd import KD
from contrastill.training.engine import fit


def split():
    images = PaddedImages.zeros(48, 16, 16, 3, dtype=torch.uint8, padding=2)
    images.interior[:] = torch.randint(
        256, images.interior.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return TensorSplit({"rgb": images}, targets=torch.arange(48) % 4, num_classes=4, flip=True)


def transfer(data):
    """Of a student that has no statistics of its batch, so that the batch may be sharded."""
    torch.manual_seed(3)
    teacher, student = (build_network(name, num_classes=4) for name in ("resnet14", "resnet8"))
    for parent in list(student.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(4, child.num_features))
    specs = [describe(network, {"rgb": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}) for network in (student, teacher)]
    setting = Setting(*specs, data.num_samples, data.targets, 0)
    options = CRD.Options(embed_dim=8, num_negatives=16, bias=3.0)
    return Transfer(
        [teacher], student, {"kd": Term([KD.build(KD.Options(), setting)]), "crd": Term([CRD.build(options, setting)])}
    )


def digest_of(cache):
    """One hash of all stored outputs."""
    digest = hashlib.sha256()
    for _, view in sorted(cache._rows.items()):
        for _, rows in sorted(view.items()):
            for name, values in sorted(rows.fields.items()):
                digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()


def main(folder):
    # Three files, as there are three batches.
    cache_shard.ROWS = 16
    accelerator, data, digests, batch_sizes = Accelerator(cpu=True), split(), [], []
    ranks = {"rank": accelerator.process_index, "world": accelerator.num_processes}

    def cache_of(transfer_, where):
        return CachedTeachers(batches, transfer_.source, transfer_.teacher_needs, where)

    batches = data.loader(batch_size=16, device="cpu", seed=5, train=True, views=2, **ranks)
    fresh = transfer(data)
    fresh.teachers[0].register_forward_hook(lambda module, args, output: batch_sizes.append(len(output.embedding)))
    for where in (None, folder / "outputs"):
        batch_sizes.clear()
        cache = cache_of(fresh, where)
        for k in range(2):
            cache.start_epoch(k)
        digests.append((digest_of(cache), sum(batch_sizes)))
    fresh = transfer(data)
    fresh.source = cache_of(fresh, folder / "outputs")
    fresh.drop_teachers()
    result = fit(
        fresh,
        batches,
        None,
        TrainConfig(epochs=2, lr=0.02, views=2, batch_size=16),
        accelerator=accelerator,
        progress=False,
    )
    state = {name: value.clone(memory_format=torch.contiguous_format) for name, value in fresh.trained_state().items()}
    state |= {f"loss of epoch {row['epoch']}": torch.tensor(row["loss"]) for row in result.history}
    (folder / f"{ranks['rank']}.json").write_text(json.dumps(digests))
    save_file(state, folder / f"{ranks['rank']}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[-1]))
