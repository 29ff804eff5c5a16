"""The advice to sample with another engine, for runs whose sampling would be slow with the built-in one."""

from __future__ import annotations

from virft.config.schema import Config, Method

MIN_PARAMETERS = 500_000_000
"""Smaller models sample fast enough; vLLM's start and weight updates would take a large part of the time gained."""


def slow_sampler_warning(
    config: Config,
    method: Method,
    *,
    num_parameters: int,
    on_vllm: bool,
    on_gpu: bool,
) -> str | None:
    """Return a warning if the built-in sampler decodes a large model on a GPU, token by token; None otherwise.

    ``on_vllm``: vLLM can sample with the model's family. None also with weights in 4 bits, which neither vLLM here nor
    CUDA graphs support.
    """
    sampling = config.sampling
    is_slow = method == "grpo" and on_gpu and sampling.engine == "builtin" and not sampling.cuda_graph
    if not is_slow or num_parameters < MIN_PARAMETERS or config.model.load_in_4bit:
        return None
    ways = ["sampling.cuda_graph = true, which replays each token as one CUDA graph (not yet run on a GPU)"]
    if on_vllm:
        ways.insert(0, 'sampling.engine = "vllm" (docs/vllm.md), estimated to sample 4 to 10 times as fast')
    return (
        "the built-in sampler launches some 50 kernels per token and layer, and on a GPU the launches limit its speed; "
        f"faster: {', or '.join(ways)}"
    )
