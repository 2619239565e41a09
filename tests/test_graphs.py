"""Optimisers and steps for a recording, on a CPU the ordinary ones; what is recorded does the same."""

import pytest
import torch
from torch import nn

from learner import graphs


def test_on_a_cpu_nothing_is_recorded():
    def step():
        return None

    assert graphs.replayed(step, torch.device("cpu")) is step
    optimiser = graphs.adam(nn.Linear(2, 1).parameters(), 1e-3)
    assert not optimiser.defaults["capturable"] and optimiser.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize("rate", (1e-3, torch.tensor(1e-3)))
def test_a_rate_is_set_where_the_optimiser_reads_it(rate):
    """A first step of Adam is as long as its rate; a tensor stays the one that a recording would read."""
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.Adam([weight], lr=rate)
    graphs.set_rate(optimiser, 0.25)
    weight.sum().backward()
    optimiser.step()
    assert weight.item() == pytest.approx(-0.25, rel=1e-6)
    assert not isinstance(rate, torch.Tensor) or optimiser.param_groups[0]["lr"] is rate


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_steps_leave_the_same_weights():
    """Bit for bit, each step with another rate and on other numbers."""
    device, found = torch.device("cuda"), []
    for wrap in (lambda step, device: step, graphs.replayed):
        torch.manual_seed(0)
        layer = nn.Linear(8, 3).to(device)
        optimiser, data = graphs.adam(layer.parameters(), 1e-3), torch.empty(64, 8, device=device)

        def step(layer=layer, optimiser=optimiser, data=data):
            optimiser.zero_grad()
            layer(data).square().mean().backward()
            optimiser.step()

        step = wrap(step, device)
        for n in range(10):
            graphs.set_rate(optimiser, 1e-3 / (n + 1))
            data.copy_(torch.randn(64, 8))
            step()
        found.append(layer.weight.detach().clone())
    assert torch.equal(*found)
