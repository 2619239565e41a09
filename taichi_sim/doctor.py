"""Is this machine fit to run the simulator? Versions, devices, precision and a short self-test."""

import subprocess
import sys
import time

import numpy as np
import taichi as ti
import torch

from . import alignment, contraction, processor, runtime
from .builder import Builder
from .simulator import Simulator
from .verification import adjoint_mismatch

# Opening a window without a driver can end the process, so Vulkan is tried in another one.
_VULKAN = "import taichi as ti; ti.init(arch=ti.vulkan, log_level=ti.ERROR); assert ti.cfg.arch == ti.vulkan"


@ti.kernel
def _roots_and_quotients(
    a: ti.types.ndarray(), b: ti.types.ndarray(), roots: ti.types.ndarray(), quotients: ti.types.ndarray()
):
    for i in range(a.shape[0]):
        roots[i] = ti.sqrt(a[i])
        quotients[i] = a[i] / b[i]


def examine(device: str, precision: str, say) -> bool:
    """Report through `say`, a line each; whether everything the simulator needs works."""
    say(f"versions    {', '.join(f'{name} {version}' for name, version in runtime.versions().items())}")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    say(f"devices     {torch.get_num_threads()} CPU threads; CUDA: {cuda}")
    vulkan = subprocess.run([sys.executable, "-c", _VULKAN], capture_output=True, timeout=60).returncode == 0
    say(f"Vulkan      {'ok' if vulkan else 'none: the viewer needs a driver, e.g. Debian mesa-vulkan-drivers'}")
    real = processor.name()
    runtime.init(device, precision)
    told = processor.name()
    told = f", is told {told}" if told != real else ""
    lines = "on cache lines" if alignment.aligned() else "anywhere"
    rounds = "once" if contraction.fused() else "twice"
    say(f"LLVM        takes the CPU for {real or 'what it finds'}{told}")
    say(f"kernels     of a CPU: arrays begin {lines}, products that are added are rounded {rounds}")
    say(f"running on  {runtime.torch_device()}, {runtime.dtype()}")
    return _precision(say) & _self_test(say)


def _precision(say) -> bool:
    """sqrt and division must be correctly rounded, as NumPy's are; torch's sqrt on a CPU is not."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 100_000, generator=generator, dtype=torch.float64).to(runtime.dtype()) + 1e-3
    on = runtime.torch_device()
    roots, quotients = torch.empty_like(a, device=on), torch.empty_like(a, device=on)
    _roots_and_quotients(a.to(on), b.to(on), roots, quotients)
    a, b = a.numpy(), b.numpy()
    wrong = int((roots.cpu().numpy() != np.sqrt(a)).sum()), int((quotients.cpu().numpy() != a / b).sum())
    say(f"precision   sqrt: {wrong[0]}, division: {wrong[1]} of 100,000 not correctly rounded")
    return wrong == (0, 0)


def _self_test(say, seconds: float = 5.0) -> bool:
    """Random rollouts of a double pendulum for a few seconds: all converge, adjoint equals forward sweep."""
    b = Builder("self-test", dim=2)
    nodes = [b.handle((0.0, 0.0), axes="x"), b.point((0.0, -0.3), 0.05), b.point((0.0, -0.6), 0.05)]
    b.chain(nodes, stiffness=1000.0)
    simulator, B, N = Simulator(b.build(), 0.02), 64, 100
    generator = torch.Generator().manual_seed(0)
    rollouts, failed, worst, limit, begun = 0, 0, 0.0, time.monotonic() + seconds, 0.0
    while time.monotonic() < limit:
        actions = (torch.rand(B, N, 1, generator=generator, dtype=torch.float64) - 0.5).to(
            simulator.device, simulator.dtype
        )
        trajectory = simulator.rollout(simulator.start(B), actions)
        begun = begun or time.monotonic()  # the first rollout compiled the kernels
        failed += int((~trajectory.ok).sum())
        worst = max(worst, adjoint_mismatch(simulator, trajectory, generator).max().item())
        rollouts += B
    rate = rollouts * N / max(time.monotonic() - begun, 1e-9)
    say(f"self-test   {rollouts} rollouts, {failed} failed, adjoint mismatch {worst:.1e}, {rate:.2g} steps/s")
    return failed == 0 and worst < 1e3 * torch.finfo(simulator.dtype).eps
