"""Count of the bytes that are allocated while tensors are computed, also those of fake tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts each new storage from the operation that makes it until it is freed: ``now`` and ``peak`` in bytes.

    Views and in-place results make no storage. Temporary memory inside an operation is not counted, and neither are the
    tensors in ``known``, which may have any shape. Works for fake tensors and for ordinary ones.

    >>> with LiveBytes() as live:
    ...     a = torch.zeros(1000)
    ...     b = (a + 1).view(10, 100) * 2
    ...     del a
    >>> live.now, live.peak  # float32: b now; at the peak a, a + 1 and b
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
        # The address of the storage object: fake tensors have no data pointer.
        key = storage._cdata
        if key not in self._alive:
            self._alive.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size
