"""Triton's interpreter with NumPy 2.4 and later, and in half of the time."""

from triton import language
from triton.runtime import interpreter

__all__ = ["mend"]


def mend() -> None:
    """Let loops run to a bound that is an argument, scalars be masks, and calls not patch Triton anew.

    Triton 3.6 takes ``int()`` of an array of one element for a loop's bound, which NumPy refuses from 2.4 on. A
    comparison of scalars turns into integers when it is spread over a block, which Triton 3.9 refuses as a mask. And
    every call of a function replaces Triton's language by the interpreter's although the launch has done so, a
    millisecond each time.
    """
    patch, patch_tensor = interpreter._patch_lang, interpreter._patch_lang_tensor
    if getattr(patch, "mended", False):
        return
    spread = interpreter.InterpreterBuilder.create_splat
    patched: set[int] = set()

    def mended_spread(self, block, scalar):
        handle = spread(self, block, scalar)
        handle.data = handle.data.astype(scalar.data.dtype, copy=False)
        return handle

    def mended_tensor(tensor, scope):
        patch_tensor(tensor, scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    def mended(function):
        seen = {id(v) for v in function.__globals__.values() if v is language or v is language.core}
        if patched and seen <= patched:
            return interpreter._LangPatchScope()
        scope = patch(function)
        if not patched:  # the launch itself
            restore = scope.restore

            def restore_all():
                patched.clear()
                restore()

            scope.restore = restore_all
        patched.update(seen)
        return scope

    mended.mended = True  # type: ignore[attr-defined]
    interpreter._patch_lang, interpreter._patch_lang_tensor = mended, mended_tensor
    interpreter.InterpreterBuilder.create_splat = mended_spread
