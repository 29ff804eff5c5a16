"""Reward functions: (reading, target) -> number. A task lists those that it uses, with their bounds (``virft.tasks``).

``detection``, ``grounding``, ``label``, ``format`` and ``length`` hold the functions; a task may keep one of its own in
its file, as ``tasks/counting.py`` does. ``extra`` loads users' functions. ``trl``, ``verl``, ``easyr1`` and
``ms_swift`` are old paths of ``virft.integrations``.
"""
