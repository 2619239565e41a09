"""What Taichi does anew at each node and each call while it reads a kernel's source, done once.

An unrolled kernel has the same lines read hundreds of times. Each time their place in the file is written down, for
messages of errors that never come, and a function's source is looked up.
"""

import functools
import textwrap
import types

from taichi.lang import kernel_impl
from taichi.lang.ast import ast_transformer_utils


@functools.cache
def remember():
    """Make Taichi remember sources and places, from now on."""
    kernel_impl.getsourcefile = functools.cache(kernel_impl.getsourcefile)
    kernel_impl.getsourcelines = functools.cache(kernel_impl.getsourcelines)
    kernel_impl.textwrap = types.SimpleNamespace(
        fill=functools.cache(textwrap.fill), dedent=functools.cache(textwrap.dedent)
    )
    wrapped = functools.cache(lambda width, text: textwrap.wrap(text, width))
    ast_transformer_utils.TextWrapper = lambda width: types.SimpleNamespace(wrap=functools.partial(wrapped, width))
    context = ast_transformer_utils.ASTTransformerContext
    described, place = {}, context.get_pos_info

    def get_pos_info(self, node):
        here = (self.file, self.lineno_offset, type(node), node.lineno, node.col_offset)
        here += (node.end_lineno, node.end_col_offset)
        if here not in described:
            described[here] = place(self, node)
        return described[here]

    context.get_pos_info = get_pos_info
