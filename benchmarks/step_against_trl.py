"""Time and memory of a complete GRPO step (sampling, reward, update): virft, virft without prefix sharing, and TRL.

    python -m venv TRL_VENV && TRL_VENV/bin/pip install torch==2.13.0    # once; on a CPU take a build for CPUs
    TRL_VENV/bin/pip install -c constraints.txt trl==1.16.0 transformers accelerate datasets pillow
    TRL_VENV/bin/pip install --no-deps torchvision==0.28.0 && TRL_VENV/bin/python scripts/declare_torchvision.py
    python benchmarks/step_against_trl.py --trl-python TRL_VENV/bin/python      # about 12 minutes on two idle cores
    python benchmarks/step_against_trl.py --trl-python .. --model 100m --dtype bfloat16 --num-prompts 4

- virft: ``GRPOTrainer.step``, on augmented images as with ``[augment]``, so that image features of earlier steps are
not
  reused;
- plain: the same engine and loop, but every completion has its own image and prompt, in sampling and in the update
  (skipped with ``--without-plain``);
- TRL: its GRPOTrainer with sampling by transformers (skipped without ``--trl-python``).

All have the built-in model's shape, or a larger one (``--model``: 100 million weights, 32,000 tokens), random weights
in ``--dtype``, a frozen vision tower, the same images and questions, completions of exactly C tokens (end tokens are
forbidden), the same number of completions per backward pass, no gradient checkpointing, beta 0, a trivial reward,
AdamW, and the same number of threads. Each side is a separate process that loads the model and renders images and text
itself. The sides run in turn, in every order equally often; the first turn is not counted. virft and plain retain freed
memory as in training, unless a ``MALLOC_*`` variable says otherwise, which also applies to TRL. Memory: resident set
sampled every 5 ms, the highest of all turns, minus its value after model and trainer were set up. The limit is the
ratio of counted operations of plain and virft, see ``counting.py``. The rate of matrix products of ``--dtype`` is
measured in every turn. A second table gives the stages of virft and of plain, and the fraction of that rate that
virft's counted operations reach over the whole step, and in the policy's forward and backward passes only.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice, permutations
from pathlib import Path
from typing import Any

import torch
from counting import GroupShape, step_operations, update_stage_operations
from memory_2b import model_config
from PIL import Image
from record import RESULTS, markdown_table, matrix_rate, write_results
from sides import Server, Side
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

import virft.training.grpo.trainer as grpo
from virft.config.schema import GRPOConfig
from virft.data.images import load_image
from virft.generation.generator import EncodedPrompt, GenerationParams, Generator
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.models.attention.layout import PackedRow, pack_row
from virft.models.load import LoadedModel, load_model
from virft.models.policy import Policy, TokenRules
from virft.models.renderer import RenderedPrompt, Renderer
from virft.models.stop_tokens import stop_token_ids
from virft.models.tiny import TINY_NAME, tiny_folder
from virft.models.vision import FeatureCache, ImageFeatures, VisionInputs
from virft.training.freed_memory import keep_freed_memory
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.optim import make_optimizer
from virft.training.policy_runner import PolicyRunner
from virft.types import (
    Augmentation,
    Completion,
    Detections,
    ImageSize,
    Reading,
    RewardContext,
    RewardReport,
    Sample,
)

_COMPILED = "; layers of virft and of plain compiled (`model.compile`), in the turn that is not counted"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Input of every side, as a file next to the model."""

    questions: list[str]
    """Question text of each prompt."""
    images: list[str]
    """Image file of each prompt, in the folder of the model."""
    prompt: int
    """Prompt tokens, including image tokens."""
    group: int
    """Completions per prompt."""
    groups_per_backward: int
    """Groups per backward pass."""
    completion: int
    """Tokens of each completion."""
    forbidden_ids: list[int]
    """Token ids that are never sampled."""
    frozen_vision: bool
    """Freeze the vision tower."""
    threads: int
    """PyTorch threads."""
    dtype: str
    """Data type of the weights."""
    compile: bool = False
    """Compile the layers of virft and of plain."""
    device: str = "cpu"
    """Device of TRL's side, as the following settings."""
    vllm: bool = False
    """Sample with vLLM in the same process."""
    autocast: bool = False
    """Compute in bfloat16 by autocast."""
    checkpointing: bool = False
    """Gradient checkpointing."""
    lora_rank: int = 0
    """Rank of the adapters; 0: all weights are trained."""
    lora_target: str = ""
    """Regular expression of the layers that get adapters."""


class LetterGrader:
    """Reward that differs between any two texts, so that no group has zero reward variance."""

    def grade_group(
        self, texts: Sequence[str], sample: Sample, *, resized: ImageSize, contexts: Sequence[RewardContext]
    ) -> list[RewardReport]:
        """Return the mean character code of each text as its reward."""
        return list(map(self._grade, texts))

    def _grade(self, text: str) -> RewardReport:
        total = sum(map(ord, text)) / (1000 * max(1, len(text)))
        return RewardReport(total=total, parts={}, reading=Reading(text=text, well_formed=True, answer=Detections()))


class UnsharedGenerator:
    """Generator that samples every completion from its own copy of the prompt and of the image features."""

    def __init__(self, inner: Generator) -> None:
        self._inner = inner

    def generate(
        self, prompts: Sequence[EncodedPrompt], group_size: int, params: GenerationParams, key: StepKey
    ) -> list[list[Completion]]:
        """As ``Generator.generate``."""
        copies = [
            replace(
                one, features=ImageFeatures(tokens=one.features.tokens[g : g + 1]), stream_id=f"{one.stream_id}/{g}"
            )
            for one in prompts
            for g in range(group_size)
        ]
        drawn = self._inner.generate(copies, 1, params, key)
        return [[only for (only,) in drawn[i * group_size : (i + 1) * group_size]] for i in range(len(prompts))]

    def update(self) -> None:
        """As ``Generator.update``."""
        self._inner.update()

    def close(self) -> None:
        """As ``Generator.close``."""
        self._inner.close()


@dataclass(kw_only=True)
class UnsharedRunner(PolicyRunner):
    """The plain loop: image and prompt again for every completion, wherever they are needed."""

    group_size: int

    def encode_images(self, rendered: Sequence[RenderedPrompt]) -> list[ImageFeatures]:
        """Features of one copy of the image for each completion."""
        repeated = [VisionInputs.join([one.vision] * self.group_size) for one in rendered]
        frozen = self.feature_cache is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.policy.encode_images(repeated)

    def logprobs(
        self,
        row: PackedRow,
        prompts: Sequence[RenderedPrompt],
        features: Sequence[ImageFeatures],
        *,
        policy: Policy | None = None,
    ) -> Tensor:
        """Return the log-probs of a row in which every completion has its own copy of the prompt."""
        completions = row.targets.view(len(prompts) * self.group_size, -1).tolist()
        copies = [one for one in prompts for _ in range(self.group_size)]
        plain = pack_row(
            [one.prompt.token_ids for one in copies],
            [one.positions for one in copies],
            [[completion] for completion in completions],
        )
        return (policy or self.policy)(plain, features=self.encode_images(prompts))  # type: ignore[no-any-return]


def run_side(kind: str, folder: Path) -> None:
    """Run the process of virft or of plain: one step per turn."""
    server = Server()
    task = Task(**json.loads((folder / "task.json").read_text()))
    torch.set_num_threads(task.threads)
    loaded = load_model(str(folder), dtype=getattr(torch, task.dtype))
    if task.frozen_vision:
        loaded.freeze_vision()
    if task.compile:
        loaded.compile_layers()
    trainer = make_trainer(loaded, task, folder, is_shared=kind != "plain")
    samples = make_samples(task, folder)
    clock = Clock(trainer)
    server.ready()
    number = 0
    while True:
        clock.seconds.clear()
        began = time.perf_counter()
        report = trainer.step(number, samples)
        seconds = time.perf_counter() - began
        assert report.metrics["nonzero_std_frac"] == 1
        assert {len(c.token_ids) for group in report.groups for c in group.completions} == {task.completion}
        server.done(timings=clock.stages(report.timings, seconds))
        number += 1


class Clock:
    """Measures parts of the stages that a trainer reports: prefill of sampling; passes and optimizer of the update."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        self.seconds: dict[str, float] = {}
        generator: Any = trainer.generator
        generator = getattr(generator, "_inner", generator)
        generator.prefill = self._timed("prompt", generator.prefill)
        runner: Any = trainer.runner
        runner.logprobs = self._timed("forward", runner.logprobs)
        torch.Tensor.backward = self._timed("backward", torch.Tensor.backward)  # type: ignore[method-assign]
        grpo.update_weights = self._timed("optimizer", grpo.update_weights)

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

        return timed

    def stages(self, timings: Mapping[str, float], total: float) -> dict[str, float]:
        """Return the seconds of each stage of a step of ``total`` seconds; with beta 0 only the policy runs forward."""
        found = {
            "image": timings["images"],
            "prompt": self.seconds["prompt"],
            "decode": timings["sampling"] - self.seconds["prompt"],
            "reward": timings["reward"],
            "reference": timings["reference"],
            "forward": self.seconds["forward"],
            "backward": self.seconds["backward"],
            "optimizer": self.seconds["optimizer"],
        }
        return found | {"rest": total - sum(found.values())}


def make_samples(task: Task, folder: Path) -> list[Sample]:
    """Make a sample of each question, on an augmented image."""
    samples = []
    for i, (question, image) in enumerate(zip(task.questions, task.images, strict=True)):
        size = ImageSize(*load_image(str(folder / image)).size)
        samples.append(
            Sample(
                id=str(i),
                task="detection",
                images=(str(folder / image),),
                image_sizes=(size,),
                query="",
                target=Detections(),
                question=question,
                augmentation=Augmentation(crop=(0.0, 0.0, size.width, size.height)),
            )
        )
    return samples


def make_trainer(loaded: LoadedModel, task: Task, folder: Path, *, is_shared: bool = True) -> GRPOTrainer:
    """The trainer of ``virft.recipes.trainers`` with the settings of the comparison; ``is_shared``: prefix sharing."""
    keep_freed_memory()
    ends = stop_token_ids(loaded.model)
    policy = Policy(loaded.model, loaded.family, TokenRules(forbidden_ids=tuple({*task.forbidden_ids, *ends})))
    renderer = Renderer(loaded, load_image)
    generator: Any = HFGenerator(policy, loaded.tokenizer)
    cache = FeatureCache() if task.frozen_vision else None
    runner = PolicyRunner(policy=policy, feature_cache=cache)
    if not is_shared:
        runner = UnsharedRunner(policy=policy, feature_cache=cache, group_size=task.group)
    return GRPOTrainer(
        runner=runner,
        generator=generator if is_shared else UnsharedGenerator(generator),
        render=lambda sample: renderer.render(sample, sample.question or ""),
        grader=LetterGrader(),  # type: ignore[arg-type]
        optimizer=make_optimizer(policy.parameters(), weight_decay=0.0),
        learning_rate_at=lambda step: 1e-6,
        config=GRPOConfig(
            steps=100_000,
            group_size=task.group,
            kl_coef=0.0,
            loss="sequence_mean",
            scale_by_std=True,
            updates_per_batch=1,
            clip_range=0.2,
            max_grad_norm=1.0,
            microbatch_tokens=task.groups_per_backward * (task.prompt + task.group * task.completion),
        ),
        params=GenerationParams(max_completion_tokens=task.completion),
        seed=0,
    )


def make_folder(
    folder: Path,
    *,
    shape: GroupShape,
    num_prompts: int,
    groups_per_backward: int,
    frozen_vision: bool,
    threads: int,
    model: str,
    dtype: str,
    compiled: bool = False,
) -> None:
    """Write a model folder for images of ``shape``, the images, and ``task.json`` with the questions."""
    loaded = load_model(TINY_NAME)
    patch = loaded.image_processor.patch_size
    side = round(shape.patches**0.5) * patch
    torch.manual_seed(0)
    # Random weights: an untrained model gives different completions.
    loaded.model = AutoModelForImageTextToText.from_config(shape_config(model), dtype=getattr(torch, dtype))
    loaded.save(folder)
    _set_pixels(folder, side * side)
    add_video_processor(folder)
    loaded = load_model(str(folder))
    rng = random.Random(0)
    images = []
    for i in range(num_prompts):
        pixels = Image.frombytes("RGB", (8, 8), rng.randbytes(192))
        images.append(f"image_{i}.png")
        pixels.resize((side, side)).save(folder / images[-1])
    questions = [make_question(loaded, folder / image, shape.prompt, rng) for image in images]
    task = Task(
        questions=questions,
        images=images,
        prompt=shape.prompt,
        group=shape.group,
        groups_per_backward=groups_per_backward,
        completion=shape.completion,
        forbidden_ids=sorted(loaded.family.forbidden_token_ids(loaded.tokenizer, loaded.model.config)),
        frozen_vision=frozen_vision,
        threads=threads,
        dtype=dtype,
        compile=compiled,
    )
    (folder / "task.json").write_text(json.dumps(asdict(task)))


def shape_config(model: str) -> Any:
    """Return the config of virft-tiny (``tiny``), or of a larger Qwen2-VL with its special tokens (``100m``)."""
    return AutoConfig.from_pretrained(tiny_folder()) if model == "tiny" else model_config("small")


def _set_pixels(folder: Path, pixels: int) -> None:
    """Set the number of pixels that images are resized to."""
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text())
    config |= {"min_pixels": pixels, "max_pixels": pixels, "size": {"shortest_edge": pixels, "longest_edge": pixels}}
    path.write_text(json.dumps(config))


def add_video_processor(folder: Path) -> None:
    """Add the video processor file to a model folder that TRL's side needs."""
    config = json.loads((folder / "preprocessor_config.json").read_text())
    video = {key: value for key, value in config.items() if key not in ("image_processor_type", "processor_class")}
    video["video_processor_type"] = "Qwen2VLVideoProcessor"
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))


def make_question(loaded: LoadedModel, image: Path, length: int, rng: random.Random) -> str:
    """Return random digits, one token each, that make a prompt of ``length`` tokens."""
    size = ImageSize(*load_image(str(image)).size)
    sample = Sample(id="", task="detection", images=(str(image),), image_sizes=(size,), query="", target=Detections())

    def tokens(question: str) -> int:
        return len(Renderer(loaded, load_image).render(sample, question).prompt.token_ids)

    question = "".join(rng.choices("0123456789", k=max(0, length - tokens(""))))
    if tokens(question) != length:
        sys.exit(f"a prompt of {length} tokens cannot be made: image and template alone are {tokens('')}")
    return question


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Results of one shape."""

    sides: dict[str, dict[str, float]]
    """Of each side: median seconds, median CPU seconds, peak memory above the loaded model in MiB."""
    stages: dict[str, dict[str, float]]
    """Of virft and plain: median seconds of each stage."""
    rate: float
    """Median matrix-product rate in operations per second."""


def measure(commands: dict[str, list[str]], folder: Path, repeats: int, dtype: torch.dtype) -> Measured:
    """Run ``repeats`` turns in all orders of the sides, after one turn that is not counted."""
    sides = {name: Side(command, folder / f"{name}.log") for name, command in commands.items()}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    rates = []
    for order in islice(cycle(permutations(sides)), repeats + 1):
        rates.append(matrix_rate(dtype))
        for name in order:
            turns[name].append(sides[name].step())
    results = {}
    for name, side in sides.items():
        side.close()
        results[name] = {
            "seconds": statistics.median(turn["seconds"] for turn in turns[name][1:]),
            "cpu_seconds": statistics.median(turn["cpu_seconds"] for turn in turns[name][1:]),
            "mib": max(turn["peak_mib"] for turn in turns[name]) - side.facts["loaded_mib"],
        }
        print(f"  {name}: {results[name]}  {turns[name][-1].get('timings', '')}", flush=True)
    stages = {}
    for name in [name for name in sides if name != "TRL"]:
        timings = [turn["timings"] for turn in turns[name][1:]]
        stages[name] = {stage: statistics.median(one[stage] for one in timings) for stage in timings[0]}
    return Measured(sides=results, stages=stages, rate=statistics.median(rates[1:]))


def main(arguments: argparse.Namespace) -> None:
    """Measure every shape and write the tables."""
    threads = arguments.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    config = shape_config(arguments.model)
    rows, stage_rows = [], []
    frozen = not arguments.train_vision
    for spec in arguments.shapes:
        prompt, side, completion, group = map(int, spec.split(","))
        patches = (side // config.vision_config.patch_size) ** 2
        shape = GroupShape(prompt=prompt, completion=completion, group=group, patches=patches)
        counted = [step_operations(config, shape, shared=way, frozen_vision=frozen) for way in (False, True)]
        limit = counted[0] / counted[1]
        print(f"P {prompt}, image {side}, C {completion}, G {group}: limit {limit:.2f}", flush=True)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_folder(
                folder,
                shape=shape,
                num_prompts=arguments.num_prompts,
                groups_per_backward=arguments.groups_per_backward,
                frozen_vision=frozen,
                threads=threads,
                model=arguments.model,
                dtype=arguments.dtype,
                compiled=arguments.compile,
            )
            ways = ("virft",) if arguments.without_plain else ("virft", "plain")
            commands = {way: [sys.executable, __file__, "--side", way, "--folder", name] for way in ways}
            if arguments.trl_python:
                commands["TRL"] = [arguments.trl_python, str(Path(__file__).with_name("trl_side.py")), name]
            measured = measure(commands, folder, arguments.repeats, getattr(torch, arguments.dtype))
        found = measured.sides
        ours = found["virft"]
        row = [prompt, side, completion, group, f"{limit:.2f}"]
        if "plain" in found:
            ratio = found["plain"]["seconds"] / ours["seconds"]
            row += [f"{ratio:.2f}", f"{ratio / limit:.0%}"]
        row += [f"{one['seconds']:.2f}" for one in found.values()] + [f"{one['mib']:.0f}" for one in found.values()]
        if "TRL" in found:
            row += [f"{found['TRL']['seconds'] / ours['seconds']:.2f}", f"{ours['mib'] / found['TRL']['mib']:.0%}"]
        rows.append([str(cell) for cell in row])
        done = counted[1] * arguments.num_prompts / ours["seconds"]
        update = update_stage_operations(config, shape, frozen_vision=frozen) * arguments.num_prompts
        passes = measured.stages["virft"]["forward"] + measured.stages["virft"]["backward"]
        of_passes = update / passes / measured.rate
        rates = [f"{done / 1e9:.0f}", f"{measured.rate / 1e9:.0f}", f"{done / measured.rate:.0%}", f"{of_passes:.0%}"]
        for way, stages in measured.stages.items():
            seconds = found[way]["seconds"]
            cells = [f"{one:.2f}" for one in (*stages.values(), seconds)]
            speed = f"{arguments.num_prompts * group * completion / seconds:.0f}"
            stage_rows.append([way, *spec.split(","), *cells, speed, *(rates if way == "virft" else [""] * len(rates))])
    head = ["P", "image", "C", "G", "limit"] + (["plain/virft", "of limit"] if "plain" in found else [])
    head += [f"{name} s" for name in found] + [f"{name} MiB" for name in found]
    head += ["TRL/virft", "virft MiB of TRL's"] if "TRL" in found else []
    shown = [f"{name} s" for name in (*measured.stages["virft"], "step")]
    stage_head = ["", "P", "image", "C", "G", *shown, "tokens/s", "Gop/s", "rate", "fraction", "of passes"]
    tower = f"Vision tower {'frozen' if frozen else 'trained'}{_COMPILED if arguments.compile else ''}."
    tables = (
        f"{arguments.model} in {arguments.dtype}. One step of {arguments.num_prompts} prompts x G completions, "
        f"{arguments.groups_per_backward} groups per backward pass; P prompt tokens, image: pixels a side, C tokens "
        f"per completion. {tower} Medians of {arguments.repeats} steps; MiB: peak above the loaded model.\n\n"
        f"{markdown_table(head, rows)}\n\nSeconds of the stages; completion tokens per second; counted operations per "
        "second over the whole step, the matrix-product rate, and the fraction of it; the fraction in forward and "
        "backward passes only.\n\n"
        f"{markdown_table(stage_head, stage_rows)}"
    )
    options = " ".join(sys.argv[1:]).replace(arguments.trl_python or "\0", "TRL_VENV/bin/python")
    print(tables)
    command = f"python benchmarks/step_against_trl.py {options}"
    print(write_results("step_against_trl", command=command, tables=tables, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", help="interpreter of an environment with TRL")
    parser.add_argument(
        "--shapes", nargs="+", default=["50,112,50,8", "150,112,50,8", "300,280,128,8"],
        help="P,pixels a side,C,G",
    )  # fmt: skip
    parser.add_argument("--model", choices=("tiny", "100m"), default="tiny")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--num-prompts", type=int, default=16, help="default: that of virft")
    parser.add_argument(
        "--groups-per-backward", type=int, default=4, help="on every side; virft's default of 4096 tokens fits 3 to 9"
    )
    parser.add_argument(
        "--repeats", type=int, default=6, help="with a multiple of 6, every order of 3 sides is equally frequent"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the layers of virft and of plain, as model.compile"
    )
    parser.add_argument("--without-plain", action="store_true", help="skip plain, if three sides do not fit in memory")
    parser.add_argument("--train-vision", action="store_true")
    parser.add_argument("--threads", type=int, help="PyTorch threads of every side; default: PyTorch's default")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=("virft", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.side:
        run_side(parsed.side, parsed.folder)
    else:
        main(parsed)
