"""Triton's interpreter with NumPy 2.4 and later."""

from triton.runtime import interpreter

__all__ = ["mend"]


def mend() -> None:
    """Let loops run to a bound that is an argument.

    Triton 3.6 takes ``int()`` of an array of one element for it, which NumPy refuses from 2.4 on.
    """
    patch = getattr(interpreter, "_patch_lang_tensor", None)
    if patch is None or getattr(patch, "mended", False):
        return

    def mended(tensor, scope):
        patch(tensor, scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    mended.mended = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = mended
