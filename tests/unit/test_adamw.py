"""The fused AdamW: bit-identical to PyTorch's, without importing its compiler."""

import subprocess
import sys

import torch

from hamjepa_audit.adamw import AdamW


def test_it_is_pytorchs_to_the_last_bit() -> None:
    source = torch.Generator().manual_seed(0)
    shapes = [(8, 3, 3, 3), (5,), (4, 4), ()]
    ours = [torch.randn(shape, generator=source) for shape in shapes]
    ours[0] = ours[0].to(memory_format=torch.channels_last)
    theirs = [tensor.clone() for tensor in ours]
    groups = [(slice(0, 2), 1e-2), (slice(2, 4), 3e-3)]
    settings = {"betas": (0.8, 0.99), "weight_decay": 0.1}
    mine = AdamW([{"params": ours[part], "lr": rate} for part, rate in groups], **settings)
    reference = torch.optim.AdamW(
        [{"params": theirs[part], "lr": rate} for part, rate in groups], fused=True, **settings
    )
    for step in range(5):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            missing = index == 1 and step < 2  # a parameter whose gradients start later
            a.grad = None if missing else torch.empty_like(a).normal_(generator=source)
            b.grad = None if a.grad is None else a.grad.clone()
        for group in (*mine.param_groups, *reference.param_groups):
            group["lr"] *= 0.9
        mine.step()
        reference.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for a, b in zip(ours, theirs, strict=True):
        assert mine.state[a]["exp_avg"].stride() == a.stride()
        for name in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(mine.state[a][name], reference.state[b][name])
    mine.zero_grad()
    assert all(tensor.grad is None for tensor in ours)


def test_a_gradient_with_other_strides_is_that_of_the_same_entries() -> None:
    gradient = torch.arange(8.0 * 3 * 9).view(8, 3, 3, 3) - 100
    ours = torch.zeros(8, 3, 3, 3).to(memory_format=torch.channels_last)
    theirs = torch.zeros(8, 3, 3, 3)
    ours.grad, theirs.grad = gradient, gradient
    assert ours.grad.stride() != ours.stride()
    settings = {"lr": 0.1, "betas": (0.8, 0.99), "weight_decay": 0.1}
    AdamW([{"params": [ours], "lr": 0.1}], betas=(0.8, 0.99), weight_decay=0.1).step()
    torch.optim.AdamW([theirs], foreach=False, **settings).step()
    torch.testing.assert_close(ours, theirs)


def test_a_step_does_not_import_the_compiler() -> None:
    program = """
import sys, torch
from hamjepa_audit.adamw import AdamW
parameter = torch.zeros(3, requires_grad=True)
optimiser = AdamW([{"params": [parameter], "lr": 0.1}], betas=(0.9, 0.999), weight_decay=0.0)
parameter.sum().backward()
torch.nn.utils.clip_grad_norm_([parameter], 1.0)
optimiser.step()
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
