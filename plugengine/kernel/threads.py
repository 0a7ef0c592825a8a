"""What one thread can do to another of its interpreter."""

from __future__ import annotations

from ctypes import c_int, c_ulong, py_object, pythonapi

_set_async_exc = pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = (c_ulong, py_object)
_set_async_exc.restype = c_int


def raise_in_thread(ident: int, exception: type[BaseException]) -> None:
    """Have a thread raise an exception at the next line of Python it executes; one that has ended is fine.

    A blocking system call is not interrupted: it is raised when the call returns.
    """
    _set_async_exc(ident, exception)
