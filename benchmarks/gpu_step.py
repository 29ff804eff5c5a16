"""Whole steps and updates of models of 2B, 3B and 7B size on one GPU: throughput, MFU, memory against the plan, TRL.

    python benchmarks/gpu_step.py                     # one GPU with 80 GB; at most 12 minutes
    python benchmarks/gpu_step.py --shapes 2b         # one GPU with 24 GB
    python benchmarks/gpu_step.py --trl-python TRL_VENV/bin/python    # TRL in an environment of its own

The models have the sizes of Qwen2-VL-2B, Qwen2.5-VL-3B and Qwen2-VL-7B in their language model, random weights in
bfloat16, and LoRA adapters of rank 32. Nothing is measured before log-probs and gradients of prefix sharing equal those
of the plain batch in float32 on this device.

- Step: image, sampling and update of one group of G completions, with the built-in sampler, and with vLLM if it is
  installed. Random weights almost never sample the end token, so completions have the maximum length C. Tokens/s
  counts prompt and completion for every completion, G (P + C), as other trainers publish it. Peak memory is
  shown next to that of ``virft plan``.
- Step of TRL: its GRPOTrainer in a process of its own (``trl_side.py``), with the same sizes, adapters, image,
  question, trivial reward and number of steps, bfloat16 by autocast, and beta 0. It samples with vLLM in the same
  process if its environment has vLLM, else with transformers; all other settings are TRL's defaults. A process loads
  the model before its first step. Peak memory is that of the tensors that PyTorch allocates, for every system.
- Update: forward and backward pass over the group, alternating with the plain batch [G, P + C] that repeats the prompt.

MFU (model FLOPs utilization): operations that the shared computation needs per second and per peak rate of the device,
as ``virft.models.operations`` counts them.

The first step and the first update of a measurement are not counted. ``--minutes`` limits the whole program: a
measurement is skipped, and named in the result file, if the time that the one before it took would exceed the limit. A
measurement that fails, such as for lack of memory or of TRL's packages, is named with its reason, and the others are
made.

``--try-on-cpu`` rehearses the program with a tiny shape; its numbers have no meaning.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from counting import GroupShape, adapters_update_operations
from memory_2b import IMAGE, SHAPES, model_config
from PIL import Image
from record import RESULTS, markdown_table, write_results
from sides import Side, SideEnded
from step_against_trl import LetterGrader, Task, add_video_processor, make_question
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, RunConfig, SamplingConfig
from virft.models.attention.layout import PackedRow, pack_row
from virft.models.load import LoadedModel, wrap_model
from virft.models.peak_rates import peak_rate
from virft.models.policy import Policy, make_policy
from virft.models.tiny import tiny_folder
from virft.planning.memory import Planner
from virft.recipes.setup import make_prompting
from virft.recipes.trainers import make_grpo_trainer
from virft.training.distributed import Ranks
from virft.training.runtime import Runtime
from virft.training.trainable import prepare_for_training
from virft.types import Detections, ImageSize, Sample

GIB = 2**30
TOLERANCE = 1e-3
"""Largest relative difference of log-probs and gradients in float32. TF32 is off while they are compared."""
TRL_PACKAGES = ("trl", "datasets", "peft", "torchvision")
"""What TRL needs for a Qwen2-VL."""
Measured = TypeVar("Measured")


class Budget:
    """Time of the whole program. ``skipped``: names of the measurements that it had no time for.

    ``failed``: names of those that failed, with the reason.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.minutes = minutes
        self.skipped: list[str] = []
        self.failed: dict[str, str] = {}
        self._clock = clock
        self._end = clock() + 60 * minutes
        self._began: float | None = clock()
        self._took = 0.0

    def allows(self, name: str) -> bool:
        """True if a measurement as long as the last one ends in time; else it is noted as skipped."""
        now = self._clock()
        if self._began is not None:
            self._took = now - self._began
        is_allowed = now + self._took <= self._end
        self._began = now if is_allowed else None
        if not is_allowed:
            self.skipped.append(name)
        return is_allowed

    def measure(self, name: str, measurement: Callable[[], Measured]) -> Measured | None:
        """Return the result of a measurement; None if there is no time for it or it fails, which is noted."""
        if not self.allows(name):
            return None
        try:
            return measurement()
        except SideEnded as ended:
            print(ended, file=sys.stderr)
            self.failed[name] = ended.reason
        except Exception as error:  # noqa: BLE001 - memory, a driver or a package
            self.failed[name] = f"{type(error).__name__}: {error}"
        # After the handler, which holds the tensors of the failed measurement.
        free_memory()
        return None

    @property
    def left(self) -> float:
        """Seconds until the end, at least 0."""
        return max(0.0, self._end - self._clock())

    def describe(self) -> str:
        """The skipped and the failed measurements, as paragraphs of the result file; "" without any."""
        text = ""
        if self.skipped:
            text += f"Skipped, to end within {self.minutes:g} minutes: {'; '.join(self.skipped)}.\n\n"
        for name, reason in self.failed.items():
            first_line = reason.strip().partition("\n")[0]
            text += f"Failed: {name}: {first_line:.300}\n\n"
        return text


class Pass(NamedTuple):
    """Seconds and additional peak memory, in GiB, of one forward and backward pass."""

    seconds: float
    peak: float


def is_measured(device: torch.device) -> bool:
    """False for a CPU and for a simulated device, which have no clock and no memory of their own."""
    return device.type == "cuda" and torch.cuda.is_available()


def make_model(device: torch.device, shape: str, dtype: torch.dtype, *, checkpointing: bool) -> LoadedModel:
    """Make a random model with adapters that are not zero."""
    torch.manual_seed(0)
    # Made on the device: 7B weights would take minutes on a CPU.
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(model_config(shape), dtype=dtype)
    loaded = wrap_model(model, AutoTokenizer.from_pretrained(tiny_folder()), Qwen2VLImageProcessorPil())
    prepare_for_training(loaded, ModelConfig(train="lora", gradient_checkpointing=checkpointing), seed=0)
    loaded.model.to(device)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    return loaded


def shared_logprobs(policy: Policy, row: PackedRow) -> Tensor:
    """Return the log-probs [G * C] of the completions, one after the other, from one packed row."""
    return policy(row, features=[])


def plain_logprobs(policy: Policy, prompt: list[int], completions: list[list[int]], device: torch.device) -> Tensor:
    """Return the same log-probs [G * C] from a batch in which each completion follows its own copy of the prompt."""
    ids = torch.tensor([[*prompt, *one] for one in completions], device=device)
    positions = torch.arange(ids.shape[1], device=device).expand(3, len(completions), -1)
    hidden = policy.model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    chosen = hidden[:, len(prompt) - 1 : -1].flatten(0, 1)
    targets = torch.tensor(completions, device=device).flatten()
    return policy.next_log_distribution(chosen).gather(-1, targets[:, None])[:, 0]


def two_sides(policy: Policy, device: torch.device, *, prompt: int, own: int, group: int) -> list[Callable[[], Tensor]]:
    """Return the shared and the plain computation of the same random tokens; images are an input of the update."""
    numbers = torch.randint(100, 900, (prompt + group * own,), generator=torch.manual_seed(1))
    ids, completions = numbers[:prompt].tolist(), numbers[prompt:].view(group, own).tolist()
    row = pack_row([ids], [torch.arange(prompt).expand(3, -1)], [completions]).to(device)
    return [lambda: shared_logprobs(policy, row), lambda: plain_logprobs(policy, ids, completions, device)]


def check_equal(device: torch.device, shape: str) -> float:
    """Compare both sides in float32; the largest relative difference. Exits if it exceeds ``TOLERANCE``."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    loaded = make_model(device, shape, torch.float32, checkpointing=False)
    policy = make_policy(loaded, temperature=1.0).train()
    found = []
    for run in two_sides(policy, device, prompt=40, own=8, group=3):
        policy.zero_grad(set_to_none=True)
        logprobs = run()
        (logprobs * torch.linspace(-1, 1, len(logprobs), device=device)).sum().backward()
        gradients = [one.grad.flatten() for one in policy.parameters() if one.grad is not None]
        found.append([logprobs.detach(), torch.cat(gradients)])
    torch.set_float32_matmul_precision(before)
    worst = max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(*found, strict=True))
    if not worst <= TOLERANCE:  # NaN fails too
        sys.exit(f"gpu_step: prefix sharing differs from the plain batch by {worst:.1e}; expected at most {TOLERANCE}")
    return worst


def timed(run: Callable[[], Tensor], policy: Policy, device: torch.device) -> Pass:
    """Measure one forward and backward pass in bfloat16."""
    policy.zero_grad(set_to_none=True)
    before = begin_measurement(device)
    began = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16):
        logprobs = run()
    logprobs.mean().backward()
    peak = end_measurement(device)
    return Pass(time.perf_counter() - began, (peak - before) / GIB)


def begin_measurement(device: torch.device) -> float:
    """Wait for the device and return the bytes that are allocated now; NaN if it is not measured."""
    if not is_measured(device):
        return math.nan
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def end_measurement(device: torch.device) -> float:
    """Wait for the device and return the peak of allocated bytes."""
    if not is_measured(device):
        return math.nan
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def run_config(folder: str, arguments: argparse.Namespace, own: int, engine: str) -> Config:
    """Return a run with one prompt per step and all its completions in one packed row."""
    return Config(
        model=ModelConfig(path=folder, train="lora", dtype="bfloat16", gradient_checkpointing=arguments.checkpointing),
        data=DataConfig(train="none"),
        sampling=SamplingConfig(max_completion_tokens=own, engine=engine),  # type: ignore[arg-type]
        grpo=GRPOConfig(
            steps=99, prompts_per_step=1, group_size=arguments.group, microbatch_tokens=1 << 20, kl_coef=0.0
        ),
        run=RunConfig(dir="none"),
    )


def make_sample(folder: Path, loaded: LoadedModel, prompt: int, size: ImageSize) -> Sample:
    """Return a sample with an image of random pixels, whose prompt has ``prompt`` tokens."""
    path = folder / "noise.png"
    Image.effect_noise(size, 90).convert("RGB").save(path)
    question = make_question(loaded, path, prompt, random.Random(0))
    return Sample(
        id="a",
        task="detection",
        images=(str(path),),
        image_sizes=(size,),
        query="",
        target=Detections(),
        question=question,
    )


class Step(NamedTuple):
    """A measured training step."""

    prompt: int
    seconds: float
    sampling: float
    update: float
    completion: float
    peak: float


def measure_step(
    loaded: LoadedModel, config: Config, arguments: argparse.Namespace, device: torch.device, sample: Sample
) -> Step:
    """Take ``1 + repeats`` steps; medians without the first one."""
    runtime = Runtime(ranks=Ranks(device=device), dtype=torch.bfloat16)
    prompting = make_prompting(config.prompt, config.mixture, loaded)
    trainer = make_grpo_trainer(config, loaded, prompting, runtime)
    # The text of random tokens has no reward, and a group without reward variance has no update.
    trainer.grader = LetterGrader()  # type: ignore[assignment]
    begin_measurement(device)
    seconds, stages, lengths = [], [], []
    for number in range(arguments.repeats + 1):
        began = time.perf_counter()
        report = trainer.step(number, [sample])
        end_measurement(device)
        seconds.append(time.perf_counter() - began)
        if "grad_norm" not in report.metrics:
            raise RuntimeError(f"step {number} had no update; expected completions with different rewards")
        stages.append(report.timings)
        (group,) = report.groups  # type: ignore[attr-defined]
        lengths.append(statistics.mean(len(one.token_ids) for one in group.completions))
    peak = end_measurement(device)
    trainer.close()
    return Step(
        prompt=len(group.prompt.token_ids),
        seconds=statistics.median(seconds[1:]),
        sampling=statistics.median(one["sampling"] for one in stages[1:]),
        update=statistics.median(one["update"] for one in stages[1:]),
        completion=statistics.mean(lengths[1:]),
        peak=peak,
    )


def systems() -> dict[str, str]:
    """Return the names of virft's systems whose packages are installed, with their engine."""
    return {"virft": "builtin"} | ({"virft, vLLM": "vllm"} if importlib.util.find_spec("vllm") else {})


def make_folder(folder: Path, shape: str, loaded: LoadedModel) -> None:
    """Write the description of a model, without weights, for the planner and for TRL."""
    model_config(shape).save_pretrained(folder)
    loaded.image_processor.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    add_video_processor(folder)


def step_rows(
    shape: str,
    loaded: LoadedModel,
    sample: Sample,
    folder: Path,
    arguments: argparse.Namespace,
    device: torch.device,
    rate: float,
    budget: Budget,
) -> list[list[str]]:
    """Measure virft's steps of a model with every completion length and engine. ``folder``: that of ``make_folder``."""
    rows = []
    for own in arguments.completions:
        for system, engine in systems().items():
            config = run_config(str(folder), arguments, own, engine)
            name = f"step of {shape}, {system}, C {own}"
            step = budget.measure(name, lambda config=config: measure_step(loaded, config, arguments, device, sample))
            if step is None:
                continue
            planner = Planner(config, image=arguments.image, text_tokens=1)
            planner = Planner(config, image=arguments.image, text_tokens=step.prompt - planner.prompt.image_tokens)
            planned = planner.memory(planner.configured).peak
            group = GroupShape(prompt=step.prompt, completion=round(step.completion), group=arguments.group, patches=0)
            done = adapters_update_operations(model_config(shape), group, rank=ModelConfig().lora_rank)
            rows.append(
                [
                    *step_cells(shape, system, arguments.group, step.prompt, step.completion, step.seconds),
                    f"{arguments.group * step.completion / step.sampling:.0f}",
                    f"{done / step.update / rate:.1%}",
                    f"{step.peak / GIB:.1f}",
                    f"{planned / GIB:.1f}",
                ]
            )
            print("  ".join(rows[-1]), flush=True)
    return rows


def step_cells(shape: str, system: str, group: int, prompt: int, completion: float, seconds: float) -> list[str]:
    """Return the cells that every system has."""
    return [
        shape,
        system,
        f"{prompt}",
        f"{completion:.0f}",
        f"{seconds:.2f}",
        f"{group * (prompt + completion) / seconds:.0f}",
        f"{group / seconds:.2f}",
    ]


class TRL(NamedTuple):
    """An environment with TRL."""

    python: str
    """Its interpreter."""
    missing: tuple[str, ...]
    """Packages of ``TRL_PACKAGES`` that it lacks."""
    has_vllm: bool
    """True if vLLM is installed in it."""

    @property
    def system(self) -> str:
        """Name of the system in the table."""
        return "TRL, vLLM" if self.has_vllm else "TRL"


def find_trl(python: str, device: torch.device) -> TRL:
    """Return what the environment of an interpreter has. On a CPU, TRL cannot use vLLM."""
    code = "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if not find_spec(n)))"
    command = [python, "-c", code, *TRL_PACKAGES, "vllm"]
    missing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return TRL(python, tuple(one for one in missing if one != "vllm"), is_measured(device) and "vllm" not in missing)


def trl_task(loaded: LoadedModel, sample: Sample, arguments: argparse.Namespace, device: torch.device) -> Task:
    """Return the input of TRL's process, with completions of length 0."""
    assert sample.question is not None and loaded.adapters is not None
    return Task(
        questions=[sample.question],
        images=[Path(sample.images[0]).name],
        prompt=arguments.prompt,
        group=arguments.group,
        groups_per_backward=1,
        completion=0,
        forbidden_ids=sorted(loaded.family.forbidden_token_ids(loaded.tokenizer, loaded.model.config)),
        frozen_vision=True,
        threads=torch.get_num_threads(),
        dtype="bfloat16",
        device=device.type,
        autocast=True,
        checkpointing=arguments.checkpointing,
        lora_rank=ModelConfig().lora_rank,
        lora_target=loaded.adapters.peft_config["default"].target_modules,
    )


def trl_rows(
    shape: str, trl: TRL, task: Task, folder: Path, arguments: argparse.Namespace, budget: Budget
) -> list[list[str]]:
    """Measure TRL's steps with every completion length. ``folder``: that of ``make_folder``, with the image."""
    rows = []
    for own in arguments.completions:
        name = f"step of {shape}, {trl.system}, C {own}"
        (folder / "task.json").write_text(json.dumps(asdict(task) | {"completion": own, "vllm": trl.has_vllm}))
        turns = budget.measure(name, lambda: measure_trl(trl.python, folder, arguments.repeats, budget.left))
        if turns is None:
            continue
        seconds = statistics.median(one["seconds"] for one in turns[1:])
        peak = max(one.get("peak_bytes", math.nan) for one in turns)
        cells = step_cells(shape, trl.system, task.group, task.prompt, own, seconds)
        rows.append([*cells, "", "", f"{peak / GIB:.1f}", ""])
        print("  ".join(rows[-1]), flush=True)
    return rows


def measure_trl(python: str, folder: Path, repeats: int, limit_s: float) -> list[dict[str, float]]:
    """Return what TRL's process reports of ``1 + repeats`` steps."""
    command = [python, str(Path(__file__).with_name("trl_side.py")), str(folder)]
    side = Side(command, folder / "trl.log", limit_s=limit_s)
    turns = [side.step() for _ in range(repeats + 1)]
    side.close()
    return turns


def update_rows(
    shape: str, loaded: LoadedModel, arguments: argparse.Namespace, device: torch.device, rate: float, budget: Budget
) -> list[list[str]]:
    """Measure the update of a model next to the plain batch with every completion length."""
    policy = make_policy(loaded, temperature=1.0).train()
    rows = []
    for own in arguments.completions:
        sides = budget.measure(
            f"update of {shape}, C {own}", lambda own=own: measure_update(policy, arguments, device, own)
        )
        if sides is None:
            policy.zero_grad(set_to_none=True)
            continue
        shared, plain = sides
        medians = [statistics.median(one.seconds for one in side[1:]) for side in (shared, plain)]
        group = GroupShape(prompt=arguments.prompt, completion=own, group=arguments.group, patches=0)
        done = adapters_update_operations(model_config(shape), group, rank=ModelConfig().lora_rank)
        rows.append(
            [
                shape,
                f"{own}",
                *(f"{seconds * 1e3:.0f}" for seconds in medians),
                f"{medians[1] / medians[0]:.2f}",
                f"{done / medians[0] / rate:.1%}",
                f"{shared[-1].peak:.2f}",
                f"{plain[-1].peak:.2f}",
            ]
        )
        print("  ".join(rows[-1]), flush=True)
    policy.zero_grad(set_to_none=True)
    return rows


def measure_update(
    policy: Policy, arguments: argparse.Namespace, device: torch.device, own: int
) -> tuple[list[Pass], list[Pass]]:
    """Run both sides in turn, ``1 + repeats`` times."""
    runs = two_sides(policy, device, prompt=arguments.prompt, own=own, group=arguments.group)
    shared, plain = ([timed(run, policy, device)] for run in runs)
    for _ in range(arguments.repeats):
        for run, found in zip(runs, (shared, plain), strict=True):
            found.append(timed(run, policy, device))
    return shared, plain


def free_memory() -> None:
    """Return the memory of dead tensors to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


STEP_HEAD = ["shape", "system", "P", "C", "step s", "tokens/s", "completions/s", "sampled tokens/s", "update MFU"]
STEP_HEAD += ["peak GiB", "planned GiB"]
UPDATE_HEAD = ["shape", "C", "shared ms", "plain ms", "plain/shared", "MFU", "shared GiB", "plain GiB"]


def measure_shape(
    shape: str,
    trl: TRL,
    arguments: argparse.Namespace,
    device: torch.device,
    rate: float,
    budget: Budget,
    steps: list[list[str]],
    updates: list[list[str]],
) -> None:
    """Measure everything on a model, and add its rows to the tables."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        loaded = make_model(device, shape, torch.bfloat16, checkpointing=arguments.checkpointing)
        make_folder(folder, shape, loaded)
        sample = make_sample(folder, loaded, arguments.prompt, arguments.image)
        updates += update_rows(shape, loaded, arguments, device, rate, budget)
        steps += step_rows(shape, loaded, sample, folder, arguments, device, rate, budget)
        task = trl_task(loaded, sample, arguments, device)
        # TRL's process needs the memory of the GPU.
        del loaded
        free_memory()
        if not trl.missing:
            steps += trl_rows(shape, trl, task, folder, arguments, budget)


def measure_all(arguments: argparse.Namespace, device: torch.device) -> str:
    """Check and measure everything on a device; the tables of the result file."""
    name = torch.cuda.get_device_name() if is_measured(device) else "no GPU: a rehearsal, whose numbers mean nothing"
    rate = peak_rate(name) or math.nan
    budget = Budget(arguments.minutes)
    trl = find_trl(arguments.trl_python, device)
    if trl.missing:
        budget.failed["steps of TRL"] = f"{', '.join(trl.missing)} not installed"
    worst = check_equal(device, arguments.checked_shape)
    steps: list[list[str]] = []
    updates: list[list[str]] = []
    for shape in arguments.shapes:
        budget.measure(
            f"model {shape}",
            lambda shape=shape: measure_shape(shape, trl, arguments, device, rate, budget, steps, updates),
        )
    return (
        f"{name}, peak {rate / 1e12:.0f} Top/s in bfloat16. G {arguments.group}, checkpointing "
        f"{arguments.checkpointing}; medians of {arguments.repeats}.\n\nIn float32, log-probs and gradients of prefix "
        f"sharing and of the plain batch differ by {worst:.1e} at most.\n\n{budget.describe()}## Steps\n\n"
        f"{markdown_table(STEP_HEAD, steps)}\n\n## Updates, P {arguments.prompt}\n\n"
        f"{markdown_table(UPDATE_HEAD, updates)}"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; a rehearsal has sizes of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=["2b", "3b", "7b"])
    parser.add_argument("--prompt", type=int, default=541, help="prompt tokens: 391 of an image of 640 x 480, and text")
    parser.add_argument("--completions", type=int, nargs="+", default=[128, 512], help="tokens of a completion")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--minutes", type=float, default=12, help="time of the whole program; the rest is skipped")
    parser.add_argument(
        "--trl-python", default=sys.executable, help="interpreter of the environment with TRL; default: this one"
    )
    parser.add_argument("--try-on-cpu", action="store_true")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    arguments.image, arguments.checked_shape = IMAGE, "small"
    if arguments.try_on_cpu:
        arguments.shapes, arguments.checked_shape = ["rehearsal"], "rehearsal"
        arguments.prompt, arguments.completions, arguments.group, arguments.repeats = 60, [4, 6], 2, 1
        arguments.image = ImageSize(56, 56)
    return arguments


def main(arguments: argparse.Namespace) -> None:
    """Measure on this machine's GPU and write the result file."""
    if not torch.cuda.is_available() and not arguments.try_on_cpu:
        sys.exit("gpu_step: no GPU here (torch.cuda.is_available() is false); nothing was measured")
    if shutil.which(arguments.trl_python) is None:
        sys.exit(f"gpu_step: --trl-python is {arguments.trl_python}; expected a program")
    tables = measure_all(arguments, torch.device("cpu" if arguments.try_on_cpu else "cuda"))
    print(tables)
    options = " ".join(sys.argv[1:]).replace(arguments.trl_python, "TRL_VENV/bin/python")
    command = f"python benchmarks/gpu_step.py {options}".strip()
    print(write_results("gpu_step", command=command, tables=tables, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    main(parse())
