"""Measured speedup of prefix sharing (image and prompt of a group are computed once), against the counted operations.

    python benchmarks/shared_prefix.py                       # every shape, half an hour on two idle cores
    python benchmarks/shared_prefix.py --prompts 150 --images 112 --completions 50 --groups 8

Two stages are timed: a policy update (forward and backward pass of the GRPO loss over a microbatch of
``--update-prompts`` groups), and the prefill of sampling (the work before the first token, for ``--prefill-prompts``
prompts). The two sides are

- shared: virft's way, one packed row [prompt | c1 .. cG], with each image and each prompt once;
- plain: image and prompt for each of G completions, as in trainers that repeat their prompts; one batch
  [groups * G, P + C], attention by PyTorch's fused causal kernel. All completions have C tokens, so there is no
  padding.

Everything else is equal: the built-in model in float32, its vision attention (that of virft), logits for completion
tokens only, the loss. The vision tower is frozen, as in the default configuration, so it has no backward pass; all
images of a microbatch are encoded in one batch, each once in shared and G times in plain; ``--train-vision`` trains it.
Both sides run in one process in alternating order; times are medians. Loss and gradients are compared first: a
difference above 1e-5 (relative to the largest gradient) ends the program. The limit is the ratio of counted operations,
see ``counting.py``.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from counting import GroupShape, prefill_operations, update_operations
from record import RESULTS, markdown_table, write_results
from torch import Tensor
from transformers import DynamicCache

from virft.generation.generator import EncodedPrompt
from virft.generation.hf_generator import HFGenerator
from virft.models.attention.layout import pack_row
from virft.models.load import load_model
from virft.models.policy import Policy, TokenRules
from virft.models.tiny import TINY_NAME
from virft.models.vision import VisionInputs
from virft.training.grpo.loss import policy_loss
from virft.types import Prompt

TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Group:
    """Random prompt with its completions."""

    prompt: list[int]
    """Token ids [P]."""
    completions: list[list[int]]
    """Token ids [G, C]."""
    positions: Tensor
    """Position ids of the prompt [3, P]."""
    vision: VisionInputs
    """Processed image."""
    advantages: Tensor
    """Advantage of each completion token [G * C]."""

    def repeated_image(self) -> VisionInputs:
        """Return one copy of the image per completion."""
        return VisionInputs.join([self.vision] * len(self.completions))


def grpo_loss(groups: Sequence[Group], logprobs: Tensor) -> Tensor:
    """Return the GRPO loss of log-probs [groups * G * C]."""
    advantages = torch.cat([group.advantages for group in groups])
    return policy_loss(logprobs, advantages=advantages, weights=torch.full_like(logprobs, 1 / len(logprobs))).loss


class Shared:
    """Prefix sharing, as in virft."""

    def __init__(self, policy: Policy, tokenizer: object) -> None:
        self.policy = policy
        self._generator = HFGenerator(policy, tokenizer)

    def loss(self, groups: Sequence[Group]) -> Tensor:
        """Return the loss of one packed row."""
        row = pack_row(
            [group.prompt for group in groups],
            [group.positions for group in groups],
            [group.completions for group in groups],
        )
        return grpo_loss(groups, self.policy(row, vision=[group.vision for group in groups]))

    @torch.no_grad()
    def prefill(self, groups: Sequence[Group]) -> Tensor:
        """Return the log-probs [groups * G, V] of the first token of every completion."""
        features = self.policy.encode_images([group.vision for group in groups])
        encoded = [
            EncodedPrompt(
                prompt=Prompt(sample_id="", text="", token_ids=tuple(group.prompt), images=()),
                positions=group.positions,
                features=made,
            )
            for group, made in zip(groups, features, strict=True)
        ]
        _, distribution = self._generator.prefill(encoded, len(groups[0].completions), len(groups[0].completions[0]))
        return distribution


class Plain:
    """The usual way: a batch with one copy of the prompt per completion."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def loss(self, groups: Sequence[Group]) -> Tensor:
        """Return the loss of one batch [groups * G, P + C]."""
        completions = torch.tensor([one for group in groups for one in group.completions])
        prompts, positions = self._repeated(groups)
        length, tokens = prompts.shape[1], completions.shape[1]
        after = positions.amax((0, 2))[:, None] + 1 + torch.arange(tokens)
        positions = torch.cat([positions, after.expand(3, -1, -1)], 2)
        hidden = self._hidden(groups, torch.cat([prompts, completions], 1), positions)
        distribution = self.policy.next_log_distribution(hidden[:, length - 1 : -1].flatten(0, 1))
        return grpo_loss(groups, distribution.gather(-1, completions.flatten()[:, None])[:, 0])

    @torch.no_grad()
    def prefill(self, groups: Sequence[Group]) -> Tensor:
        """Return the log-probs [groups * G, V] of the first token of every completion."""
        cache = DynamicCache(config=self.policy.config)
        hidden = self._hidden(groups, *self._repeated(groups), past_key_values=cache)
        return self.policy.next_log_distribution(hidden[:, -1])

    def _repeated(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
        """Return prompts [groups * G, P] and their position ids [3, groups * G, P]."""
        times = len(groups[0].completions)
        ids = torch.tensor([group.prompt for group in groups]).repeat_interleave(times, 0)
        return ids, torch.stack([group.positions for group in groups], 1).repeat_interleave(times, 1)

    def _hidden(self, groups: Sequence[Group], ids: Tensor, positions: Tensor, **kwargs: object) -> Tensor:
        features = self.policy.encode_images([group.repeated_image() for group in groups])
        return self.policy.model.model(
            input_ids=ids,
            position_ids=positions,
            use_cache=bool(kwargs),
            **self.policy.family.forward_features(features),
            **kwargs,
        ).last_hidden_state


def make_sides(*, train_vision: bool) -> tuple[Shared, Plain]:
    """Make both sides with the same weights."""
    loaded = load_model(TINY_NAME)
    if not train_vision:
        loaded.freeze_vision()
    rules = TokenRules(
        forbidden_ids=tuple(sorted(loaded.family.forbidden_token_ids(loaded.tokenizer, loaded.model.config)))
    )
    model = copy.deepcopy(loaded.model)
    model.set_attn_implementation({"text_config": "sdpa"})
    return (
        Shared(Policy(loaded.model, loaded.family, rules), loaded.tokenizer),
        Plain(Policy(model, loaded.family, rules)),
    )


def make_group(policy: Policy, shape: GroupShape, seed: int) -> Group:
    """Make random tokens around a random square image."""
    generator = torch.Generator().manual_seed(seed)
    config, side = policy.config, round(shape.patches**0.5)
    image_tokens = shape.patches // config.vision_config.spatial_merge_size**2
    values = config.vision_config.in_channels * config.vision_config.temporal_patch_size
    values *= config.vision_config.patch_size**2

    def words(count: int) -> list[int]:
        return torch.randint(0, config.text_config.vocab_size // 2, (count,), generator=generator).tolist()

    text = shape.prompt - image_tokens - 2
    image = [config.vision_start_token_id, *[config.image_token_id] * image_tokens, config.vision_end_token_id]
    prompt = [*words(text // 4), *image, *words(text - text // 4)]
    vision = VisionInputs(
        pixel_values=torch.randn(shape.patches, values, generator=generator),
        per_image={"grid_thw": torch.tensor([[1, side, side]])},
    )
    return Group(
        prompt=prompt,
        completions=[words(shape.completion) for _ in range(shape.group)],
        positions=policy.family.prompt_positions(policy.model, torch.tensor(prompt), vision),
        vision=vision,
        advantages=torch.randn(shape.group, generator=generator).repeat_interleave(shape.completion),
    )


def difference(shared: Shared, plain: Plain, groups: Sequence[Group]) -> float:
    """Return the largest difference of loss and gradients, the latter relative to the largest gradient."""
    losses, gradients = [], []
    for side in (shared, plain):
        loss = side.loss(groups)
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad for p in side.policy.parameters() if p.grad is not None])
        side.policy.zero_grad(set_to_none=True)
    largest = max(g.abs().max().item() for g in gradients[1])
    worst = max((a - b).abs().max().item() for a, b in zip(*gradients, strict=True))
    return max(abs(losses[0] - losses[1]), worst / largest)


def alternating_medians(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median seconds of both: each runs once to warm up, then they alternate."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for run, times in zip((first, second), seconds, strict=True):
            began = time.perf_counter()
            run()
            if turn:
                times.append(time.perf_counter() - began)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def update(side: Shared | Plain, groups: Sequence[Group]) -> None:
    """Run one forward and one backward pass."""
    side.loss(groups).backward()
    side.policy.zero_grad(set_to_none=True)


def line(shape: list[int], limit: float, shared_s: float, plain_s: float, *rest: str) -> list[str]:
    """Print a row of a table and return it."""
    measured = plain_s / shared_s
    row = [*map(str, shape), f"{limit:.2f}", f"{measured:.2f}", f"{measured / limit:.0%}"]
    row += [f"{shared_s * 1e3:.0f}", f"{plain_s * 1e3:.0f}", *rest]
    print("  ".join(row), flush=True)
    return row


def main(arguments: argparse.Namespace) -> None:
    """Measure every shape and write the tables."""
    shared, plain = make_sides(train_vision=arguments.train_vision)
    config = shared.policy.config
    frozen = not arguments.train_vision
    head = ["limit", "measured", "fraction", "shared ms", "plain ms"]
    patch = config.vision_config.patch_size
    updates, prefills = [], []
    for prompt, side in product(arguments.prompts, arguments.images):
        patches = (side // patch) ** 2
        for completion, group_size in product(arguments.completions, arguments.groups):
            shape = GroupShape(prompt=prompt, completion=completion, group=group_size, patches=patches)
            groups = [make_group(shared.policy, shape, seed=i) for i in range(arguments.update_prompts)]
            error = difference(shared, plain, groups)
            if error > TOLERANCE:
                sys.exit(f"{shape}: shared and plain differ by {error:.1e}")
            counted = [update_operations(config, shape, shared=way, frozen_vision=frozen) for way in (False, True)]
            times = alternating_medians(
                lambda g=groups: update(shared, g), lambda g=groups: update(plain, g), arguments.repeats
            )
            place = [prompt, side, completion, group_size]
            updates.append(line(place, counted[0] / counted[1], *times, f"{error:.0e}"))
        for group_size in arguments.groups:
            shape = GroupShape(prompt=prompt, completion=1, group=group_size, patches=patches)
            groups = [make_group(shared.policy, shape, seed=i) for i in range(arguments.prefill_prompts)]
            torch.testing.assert_close(shared.prefill(groups), plain.prefill(groups), atol=TOLERANCE, rtol=TOLERANCE)
            counted = [prefill_operations(config, shape, shared=way) for way in (False, True)]
            times = alternating_medians(
                lambda g=groups: shared.prefill(g), lambda g=groups: plain.prefill(g), arguments.repeats
            )
            prefills.append(line([prompt, side, group_size], counted[0] / counted[1], *times))
    tables = (
        f"P prompt tokens, C tokens per completion, G completions, image: pixels a side. Vision tower "
        f"{'frozen' if frozen else 'trained'}. Medians of {arguments.repeats}. Limit: ratio of counted operations.\n\n"
        f"Policy update of {arguments.update_prompts} groups; difference: of loss, and of gradients relative to the "
        f"largest\n\n"
        f"{markdown_table(['P', 'image', 'C', 'G', *head, 'difference'], updates)}\n\n"
        f"Prefill of {arguments.prefill_prompts} prompts, images included\n\n"
        f"{markdown_table(['P', 'image', 'G', *head], prefills)}"
    )
    command = " ".join(["python benchmarks/shared_prefix.py", *sys.argv[1:]])
    print(write_results("shared_prefix", command=command, tables=tables, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[150, 300], help="prompt tokens, image included")
    parser.add_argument("--images", type=int, nargs="+", default=[112, 280], help="pixels a side: 16 or 100 tokens")
    parser.add_argument("--completions", type=int, nargs="+", default=[50, 128], help="tokens")
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 8, 16], help="completions per prompt")
    parser.add_argument("--update-prompts", type=int, default=4, help="groups per microbatch")
    parser.add_argument("--prefill-prompts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--train-vision", action="store_true")
    parser.add_argument("--threads", type=int, help="PyTorch threads; default: PyTorch's default")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parsed = parser.parse_args()
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    main(parsed)
