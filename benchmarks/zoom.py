"""Measured speedup of the tree of turns in a step with zoom calls, against the counted operations.

    python benchmarks/zoom.py --threads 1

A step samples G completions of each prompt, of which some end with a zoom call and have a second turn, and then updates
the policy on all of them (forward and backward pass of the GRPO loss). The two sides are

- tree: virft's way. A second turn continues from the KV cache of its first turn, and a completion of two turns is one
  branch of the packed row. Images and text are computed once, and the features of a frozen tower serve both stages;
- again: each turn is a call of its own, with all images and text of the conversation. First turns of a prompt share
  it, as without zoom calls; each second turn is a prompt [prompt | first turn | tool turn] with both images, in
  sampling and in the update.

Both sides decode equally many tokens of equally long completions, with the same kernels, in one process and alternating
order; times are medians. The loss of both is compared first. The counted ratio is that of all operations of the step,
decoded tokens included, see ``counting.py``; it is the largest that the times can have if an operation takes as long in
every stage. Random tokens and images; the built-in model in float32 with a frozen vision tower.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from counting import image_operations
from record import RESULTS, markdown_table, write_results
from shared_prefix import alternating_medians
from torch import Tensor

from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.generation.second_turn import SecondTurns
from virft.models.attention.layout import PackedRow, pack_row
from virft.models.load import load_model
from virft.models.operations import Segment, forward_operations, group_segments, row_segments
from virft.models.policy import Policy, TokenRules
from virft.models.renderer import RenderedTurn
from virft.models.tiny import TINY_NAME
from virft.models.vision import ImageFeatures, VisionInputs
from virft.training.grpo.loss import policy_loss
from virft.types import Box, Completion, FinishReason, ImageRef, ImageSize, Prompt, Zoom

TOLERANCE = 1e-5
KEY = StepKey(seed=0, step=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of a step."""

    prompts: int
    """Number of prompts."""
    text: int
    """Text tokens of each prompt."""
    patches: int
    """Patches of each image, enlarged regions too."""
    group: int
    """Completions of each prompt."""
    calls: int
    """Completions of each prompt that call."""
    first: int
    """Tokens of a first turn."""
    second: int
    """Tokens of a second turn."""
    tool: int = 24
    """Text tokens of a tool turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """Second turn of a completion."""

    member: int
    """Number of the completion in its group."""
    turn: RenderedTurn
    answer: list[int]
    prompt: list[int]
    """[prompt | first turn | tool turn]."""
    positions: Tensor
    """Position ids of ``prompt``, [3, tokens]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A prompt with its completions."""

    prompt: list[int]
    positions: Tensor
    vision: VisionInputs
    firsts: list[list[int]]
    """Token ids of the first turns."""
    calls: list[Call]


class Step:
    """Both ways to compute a step."""

    def __init__(self, policy: Policy, shape: Shape, groups: list[Group]) -> None:
        self.policy, self.shape, self.groups = policy, shape, groups
        # no stop tokens: every completion is as long as the limit
        policy.model.generation_config.eos_token_id = []
        self._generator = HFGenerator(policy, None)

    # --- tree ---

    def sample_tree(self) -> tuple[list[ImageFeatures], list[ImageFeatures]]:
        """Sample both turns; the features of prompts and tool turns."""
        shape = self.shape
        features = self._encode([group.vision for group in self.groups])
        turns_features: list[ImageFeatures] = []

        def encode_turns(turns: Any) -> list[ImageFeatures]:
            turns_features.extend(self._encode([turn.vision for turn in turns]))
            return turns_features

        prompts = [self._encoded(group, made) for group, made in zip(self.groups, features, strict=True)]
        with torch.inference_mode():
            first = self._generator._prefilled([*enumerate(prompts)], shape.group, shape.first, KEY, room=shape.first)
            turns = SecondTurns(self.policy, prompts, shape.group, first.cache, encode_turns)
            self._decode(first, shape.first, park=turns.park)
            completions = [
                Completion(
                    token_ids=tuple(ids), token_ends=(), sampler_logprobs=(), text="", finish_reason=FinishReason.STOP
                )
                for group in self.groups
                for ids in group.firsts
            ]
            second = turns.begin(completions, shape.first + shape.second, KEY)
            assert second is not None
            self._decode(second.rows, shape.second)
        return features, turns_features

    def loss_tree(self, features: tuple[list[ImageFeatures], list[ImageFeatures]]) -> Tensor:
        """The loss of one packed row, with the features of sampling."""
        of_prompts, of_turns = features
        left = iter(of_turns)
        images = [
            one
            for group, made in zip(self.groups, of_prompts, strict=True)
            for one in (made, *(next(left) for _ in group.calls))
        ]
        return self._loss(self.policy(self.row_tree(), features=images), self._weights_tree())

    def row_tree(self) -> PackedRow:
        """The packed row of all groups."""
        completions, insertions = [], []
        for group in self.groups:
            calls = {one.member: one for one in group.calls}
            completions.append([[*ids, *(calls[i].answer if i in calls else ())] for i, ids in enumerate(group.firsts)])
            insertions.append([calls[i].turn.insertion if i in calls else None for i in range(len(group.firsts))])
        prompts, positions = [one.prompt for one in self.groups], [one.positions for one in self.groups]
        return pack_row(prompts, positions, completions, insertions)

    def _weights_tree(self) -> list[int]:
        return [
            i
            for group in self.groups
            for i, _ in enumerate(group.firsts)
            for _ in range(self.shape.first + self.shape.second * any(one.member == i for one in group.calls))
        ]

    # --- again ---

    def sample_again(self) -> None:
        """Sample first turns, then second turns as completions of new prompts."""
        shape = self.shape
        features = self._encode([group.vision for group in self.groups])
        prompts = [self._encoded(group, made) for group, made in zip(self.groups, features, strict=True)]
        with torch.inference_mode():
            self._decode(
                self._generator._prefilled([*enumerate(prompts)], shape.group, shape.first, KEY, room=shape.first),
                shape.first,
            )
        features = self._encode(self._both_images())
        prompts = [
            self._prompt(call.prompt, call.positions, made) for call, made in zip(self._calls(), features, strict=True)
        ]
        with torch.inference_mode():
            self._decode(
                self._generator._prefilled([*enumerate(prompts)], 1, shape.second, KEY, room=shape.second), shape.second
            )

    def loss_again(self) -> Tensor:
        """The loss of a packed row of first turns and one of second turns, with images encoded again."""
        first, second = self.rows_again()
        logprobs = [
            self.policy(first, features=self._encode([group.vision for group in self.groups])),
            self.policy(second, features=self._encode(self._both_images())),
        ]
        firsts = [i for group in self.groups for i, ids in enumerate(group.firsts) for _ in ids]
        seconds = [call.member for call in self._calls() for _ in call.answer]
        return self._loss(torch.cat(logprobs), firsts + seconds)

    def rows_again(self) -> tuple[PackedRow, PackedRow]:
        """The packed rows of first and of second turns."""
        groups, calls = self.groups, self._calls()
        first = pack_row(
            [one.prompt for one in groups], [one.positions for one in groups], [one.firsts for one in groups]
        )
        second = pack_row(
            [one.prompt for one in calls], [one.positions for one in calls], [[one.answer] for one in calls]
        )
        return first, second

    def _calls(self) -> list[Call]:
        return [call for group in self.groups for call in group.calls]

    def _both_images(self) -> list[VisionInputs]:
        return [VisionInputs.join([group.vision, call.turn.vision]) for group in self.groups for call in group.calls]

    # --- both ---

    def _encode(self, images: list[VisionInputs]) -> list[ImageFeatures]:
        with torch.no_grad():
            return self.policy.encode_images(images)

    def _encoded(self, group: Group, features: ImageFeatures) -> EncodedPrompt:
        turns = {tuple(group.firsts[one.member]): one.turn for one in group.calls}
        made = self._prompt(group.prompt, group.positions, features)
        return replace(made, answer_call=lambda text, ids: turns.get(ids))

    @staticmethod
    def _prompt(ids: list[int], positions: Tensor, features: ImageFeatures) -> EncodedPrompt:
        prompt = Prompt(sample_id="", text="", token_ids=tuple(ids), images=())
        return EncodedPrompt(prompt=prompt, positions=positions, features=features)

    def _decode(self, rows: Any, limit: int, **options: Any) -> None:
        for _ in self._generator._decoded(rows, 3, GenerationParams(max_completion_tokens=limit), **options):
            pass

    def _loss(self, logprobs: Tensor, members: list[int]) -> Tensor:
        advantages = torch.tensor([(-1.0) ** member for member in members])
        weights = torch.full_like(logprobs, 1 / len(logprobs))
        return policy_loss(logprobs, advantages=advantages, weights=weights).loss


def operations(config: Any, step: Step, *, tree: bool) -> tuple[int, int]:
    """Count sampling and update of a step."""
    shape, text = step.shape, config.text_config
    image = image_operations(config, shape.patches)
    num_groups, num_calls = shape.prompts, shape.prompts * shape.calls
    length = len(step.groups[0].prompt)
    whole = len(step.groups[0].calls[0].prompt)  # prompt, first turn and tool turn
    prefill = [*group_segments(length, []) * num_groups]
    decode = [Segment(shape.first - 1, length + shape.first - 1)] * (num_groups * shape.group)
    decode += [Segment(shape.second - 1, whole + shape.second - 1)] * num_calls
    # the last token of a first turn is computed with the tool turn
    added = whole - length - shape.first + 1 if tree else whole
    prefill += [Segment(added, whole)] * num_calls
    num_logits = num_groups * shape.group * shape.first + num_calls * shape.second
    sampling = image * (num_groups + num_calls * (1 if tree else 2))
    sampling += sum(forward_operations(text, [*prefill, *decode], num_logits=num_logits))
    rows = [step.row_tree()] if tree else step.rows_again()
    update = 3 * sum(sum(forward_operations(text, row_segments(row), num_logits=len(row.targets))) for row in rows)
    return sampling, update + (0 if tree else image * (num_groups + 2 * num_calls))


def make_groups(policy: Policy, shape: Shape) -> list[Group]:
    """Make groups of random tokens around random square images."""
    generator = torch.Generator().manual_seed(0)
    config = policy.config
    side = round(shape.patches**0.5)
    num_image = shape.patches // config.vision_config.spatial_merge_size**2
    values = config.vision_config.in_channels * config.vision_config.temporal_patch_size
    values *= config.vision_config.patch_size**2
    image = [config.vision_start_token_id, *[config.image_token_id] * num_image, config.vision_end_token_id]

    def words(count: int) -> list[int]:
        return torch.randint(0, config.text_config.vocab_size // 2, (count,), generator=generator).tolist()

    def pixels() -> VisionInputs:
        return VisionInputs(
            pixel_values=torch.randn(shape.patches, values, generator=generator),
            per_image={"grid_thw": torch.tensor([[1, side, side]])},
        )

    def make() -> Group:
        prompt, vision = [*words(shape.text // 4), *image, *words(shape.text - shape.text // 4)], pixels()
        firsts = [words(shape.first) for _ in range(shape.group)]
        calls = []
        for member in range(shape.calls):
            crop, tool = pixels(), [*words(shape.tool // 2), *image, *words(shape.tool - shape.tool // 2)]
            ids = [*prompt, *firsts[member], *tool]
            positions = policy.family.prompt_positions(
                policy.model, torch.tensor(ids), VisionInputs.join([vision, crop])
            )
            size = ImageSize(1, 1)
            zoom = Zoom(
                text="",
                num_tokens=shape.first,
                region=Box(x1=0, y1=0, x2=1, y2=1),
                tool_ids=tuple(tool),
                image=ImageRef(path="", original=size, resized=size),
            )
            turn = RenderedTurn(
                zoom=zoom, opened="", positions=positions[:, len(prompt) :], load_vision=lambda crop=crop: crop
            )
            calls.append(Call(member=member, turn=turn, answer=words(shape.second), prompt=ids, positions=positions))
        positions = policy.family.prompt_positions(policy.model, torch.tensor(prompt), vision)
        return Group(prompt=prompt, positions=positions, vision=vision, firsts=firsts, calls=calls)

    return [make() for _ in range(shape.prompts)]


def difference(step: Step) -> float:
    """Return the largest difference of loss and gradients, the latter relative to the largest gradient."""
    losses, gradients = [], []
    for loss in (lambda: step.loss_tree(step.sample_tree()), step.loss_again):
        value = loss()
        value.backward()
        losses.append(value.item())
        gradients.append([p.grad for p in step.policy.parameters() if p.grad is not None])
        step.policy.zero_grad(set_to_none=True)
    largest = max(one.abs().max().item() for one in gradients[1])
    worst = max((a - b).abs().max().item() for a, b in zip(*gradients, strict=True))
    return max(abs(losses[0] - losses[1]), worst / largest)


def measure(policy: Policy, shape: Shape, repeats: int) -> list[list[str]]:
    """Return a row of the table for sampling, update and the whole step."""
    step = Step(policy, shape, make_groups(policy, shape))
    if (error := difference(step)) > TOLERANCE:
        sys.exit(f"{shape}: tree and again differ by {error:.1e}")
    tree, again = (operations(policy.config, step, tree=way) for way in (True, False))
    features = step.sample_tree()

    def backward(loss: Tensor) -> None:
        loss.backward()
        policy.zero_grad(set_to_none=True)

    def whole_again() -> None:
        step.sample_again()
        backward(step.loss_again())

    stages = {
        "sampling": (step.sample_tree, step.sample_again, again[0] / tree[0]),
        "update": (
            lambda: backward(step.loss_tree(features)), lambda: backward(step.loss_again()), again[1] / tree[1]
        ),
        "step": (lambda: backward(step.loss_tree(step.sample_tree())), whole_again, sum(again) / sum(tree)),
    }  # fmt: skip
    rows = []
    for name, (first, second, counted) in stages.items():
        seconds = alternating_medians(first, second, repeats)
        measured = seconds[1] / seconds[0]
        sizes = [shape.prompts, len(step.groups[0].prompt), shape.group, shape.calls, shape.first, shape.second]
        times = [f"{one * 1e3:.0f}" for one in seconds]
        rows.append([*map(str, sizes), name, f"{counted:.2f}", f"{measured:.2f}", f"{measured / counted:.0%}", *times])
        print("  ".join(rows[-1]), flush=True)
    return rows


def main(arguments: argparse.Namespace) -> None:
    """Measure every shape and write the table."""
    loaded = load_model(TINY_NAME)
    loaded.freeze_vision()
    forbidden = tuple(sorted(loaded.family.forbidden_token_ids(loaded.tokenizer, loaded.model.config)))
    policy = Policy(loaded.model, loaded.family, TokenRules(forbidden_ids=forbidden))
    patches = (arguments.image // loaded.model.config.vision_config.patch_size) ** 2
    rows = []
    for group in arguments.groups:
        shape = Shape(
            prompts=arguments.prompts,
            text=arguments.text,
            patches=patches,
            group=group,
            calls=group // 2,
            first=arguments.first,
            second=arguments.second,
        )
        rows += measure(policy, shape, arguments.repeats)
    head = ["prompts", "P", "G", "calls", "C1", "C2", "stage", "counted", "measured", "fraction", "tree ms", "again ms"]
    table = (
        f"P prompt tokens with an image of {arguments.image} pixels a side, G completions of each prompt, C1 tokens of "
        f"a first turn, C2 of a second one. Medians of {arguments.repeats}.\n\n{markdown_table(head, rows)}"
    )
    command = " ".join(["python benchmarks/zoom.py", *sys.argv[1:]])
    print(write_results("zoom", command=command, tables=table, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4, help="prompts of a step")
    parser.add_argument("--text", type=int, default=120, help="text tokens of a prompt")
    parser.add_argument("--image", type=int, default=280, help="pixels a side: 100 tokens")
    parser.add_argument(
        "--groups", type=int, nargs="+", default=[4, 8], help="completions per prompt, half of which call"
    )
    parser.add_argument("--first", type=int, default=30, help="tokens of a first turn")
    parser.add_argument("--second", type=int, default=30, help="tokens of a second turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="PyTorch threads; default: PyTorch's default")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parsed = parser.parse_args()
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    main(parsed)
