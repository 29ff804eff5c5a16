"""The bytes that are alive while tensors without contents are computed with."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts every storage that an operation makes, from then until nobody holds it: ``now`` and ``peak`` in bytes.

    Views and results in place make no storage. What an operation needs inside itself is not seen. Tensors ``known``
    before count nothing. Works on ordinary tensors, too.

    >>> with LiveBytes() as live:
    ...     a = torch.zeros(1000)
    ...     b = (a + 1).view(10, 100) * 2
    ...     del a
    >>> live.now, live.peak  # float32: b, then a, a + 1 and b at once
    (4000, 12000)
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size
