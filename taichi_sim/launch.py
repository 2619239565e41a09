"""Launching a kernel on torch tensors without what Taichi's own call does anew each time.

A call looks at every argument, its type and its device again: 18 µs a tensor, 0.2 ms for a rollout's twelve, ten times
what a step of a few hundred pendulums takes. Here a kernel is compiled for the kinds of its arguments, then launched by
the calls that Taichi's own ends with. They are not public: this is the one place that makes them.
"""

from __future__ import annotations

import contextlib

import torch
from taichi.lang import impl
from taichi.lang.matrix import MatrixType

from .runtime import compiled_quickly


class Kernel:
    """A kernel of an object, compiled at its first call; `kernel(*arguments)` launches it once.

    arguments: ints, floats, and tensors that are contiguous and live on the physics' device
    quickly: whether to compile it without Taichi's own optimisations, see `compiled_quickly`
    places: of arguments by name
    """

    def __init__(self, kernel, quickly: bool = True):
        self._owner, self._primal, self.quickly = kernel._kernel_owner, kernel._primal, quickly
        self.name = self._primal.func.__name__
        self.places = {argument.name: n - 1 for n, argument in enumerate(self._primal.arguments)}
        self._compiled = {}

    def __call__(self, *arguments):
        Launch(self, arguments)()

    def compiled(self, arguments: tuple) -> tuple:
        """Taichi's kernel and its machine code for arguments of these kinds."""
        kinds = tuple((a.dtype, a.ndim) if isinstance(a, torch.Tensor) else type(a) for a in arguments)
        if kinds not in self._compiled:
            program = impl.get_runtime().prog
            with compiled_quickly() if self.quickly else contextlib.nullcontext():
                key = self._primal.ensure_compiled(self._owner, *arguments)
                kernel = self._primal.compiled_kernels[key]
                code = program.compile_kernel(program.config(), program.get_device_caps(), kernel)
            self._compiled[kinds] = kernel, code
        return self._compiled[kinds]

    def element_dimensions(self, place: int) -> int:
        """Dimensions of a tensor that are those of its elements, not of the array."""
        kind = getattr(self._primal.arguments[place + 1].annotation, "dtype", None)
        return kind.ndim if isinstance(kind, MatrixType) else 0


class Launch:
    """A kernel with its arguments: `launch(name=number, …)` runs it, with other numbers than before if given."""

    def __init__(self, kernel: Kernel, arguments: tuple):
        self.kernel, self._kept = kernel, arguments  # tensors live as long as their addresses are in use
        self._function, self._code = kernel.compiled(arguments)
        self._tensors, self._numbers = [], {}
        for place, value in enumerate(arguments):
            if isinstance(value, torch.Tensor):
                assert value.is_contiguous()
                shape = tuple(value.shape[: value.ndim - kernel.element_dimensions(place)])
                size = value.element_size() * value.numel()
                self._tensors.append(((place,), value.data_ptr(), size, shape, 0))
            else:
                self._numbers[place] = value

    def __call__(self, **numbers: int | float):
        self._numbers.update({self.kernel.places[name]: value for name, value in numbers.items()})
        context = self._function.make_launch_context()  # on a GPU good for one launch only
        for tensor in self._tensors:
            context.set_arg_external_array_with_shape(*tensor)
        for place, value in self._numbers.items():
            put = context.set_arg_float if isinstance(value, float) else context.set_arg_int
            put((place,), value)
        impl.get_runtime().prog.launch_kernel(self._code, context)
