"""Multi-scale deformable attention: one signature, that of the reference, and several implementations.

* `grid_sample` is the reference, `reference.ms_deform_attn`, and works on any device;
* `embedding_bag` is the fastest on a CPU;
* `triton` is the fastest on CUDA and needs Triton, which PyTorch installs on Linux.
"""

from clouds.modeling.pixel_decoder.ops.choice import check_implementation, find_implementation
from clouds.modeling.pixel_decoder.ops.custom_op import Attention

__all__ = ["Attention", "check_implementation", "find_implementation"]
