"""One training step: MLP 784-256-256-10 in float32, batch of 128, SGD as base.

m-SAM goes through the micro-batches one after the other, as its definition asks.
"""

import torch
from torch import nn

from benchmarks.table import Row, timed, verdict
from benchmarks.timing import measure
from companion.models import mlp
from companion.sam import RWSAM, SAM

WIDTHS, BATCH, MICRO, STEPS = (784, 256, 256, 10), 128, 16, 20
LEARNING_RATE, RHO = 0.01, 0.05
LOSS = nn.CrossEntropyLoss(reduction="none")
MOST_SAM, MOST_RWSAM = 2.2, 1.25


def rows() -> list[Row]:
    sgd, sam, micro, rwsam = measure(
        steps(PlainSGD),
        steps(SAM, rho=RHO),
        steps(SAM, rho=RHO, micro_batch_size=MICRO),
        steps(RWSAM, rho=RHO, generator=torch.Generator().manual_seed(0)),
        repeats=15,
    )
    over_sgd, over_sam, gap = sam.seconds / sgd.seconds, rwsam.seconds / sam.seconds, micro.seconds / rwsam.seconds
    return [
        timed(f"SGD, {STEPS} steps", sgd),
        timed("SAM", sam, ours=sgd, target=verdict(over_sgd, MOST_SAM, f"{MOST_SAM:g} × SGD")),
        timed(
            "RW-SAM, Q = 1", rwsam, ours=sgd, found=f"{over_sam:.2f} × SAM",
            target=verdict(over_sam, MOST_RWSAM, f"{MOST_RWSAM:g} × SAM"),
        ),
        timed(f"m-SAM, m = {MICRO}", micro, ours=sgd, found=f"{gap:.2f} × RW-SAM"),
    ]  # fmt: skip


class PlainSGD:
    """What a reader writes without this package, with the same call."""

    def __init__(self, model: nn.Module, base, *, lr: float):
        self.model, self.base = model, base(model.parameters(), lr=lr)

    def step(self, loss, inputs, targets):
        self.base.zero_grad()
        value = loss(self.model(inputs), targets).mean()
        value.backward()
        self.base.step()
        return value.detach()


def steps(make, **options):
    generator = torch.Generator().manual_seed(1)
    model = mlp(*WIDTHS, generator=generator, dtype=torch.float32)
    inputs = torch.randn(BATCH, WIDTHS[0], generator=generator)
    targets = torch.randint(WIDTHS[-1], (BATCH,), generator=generator)
    optimizer = make(model, torch.optim.SGD, lr=LEARNING_RATE, **options)

    def run() -> float:
        for _ in range(STEPS):
            value = optimizer.step(LOSS, inputs, targets)
        return float(value)

    return run
