"""Triton kernels, one module per op; importing any of them imports Triton, importing alias_ops does not.

They run on GPUs, and on CPU tensors under Triton's interpreter (TRITON_INTERPRET=1, for tests).
"""
