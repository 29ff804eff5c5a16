"""Training questions and answers of virft-photo: text and tokens for ``train_photo.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from packed_questions import Written
from photo_scenes import SIZE, Assets, objects_of
from tiny_questions import THINKING_FRAC, token_ids, written
from transformers import Qwen2Tokenizer

from virft.models.photo_config import IMAGE_TOKENS, NUM_IMAGE_TOKENS, PLACEHOLDER
from virft.scenes.questions import SceneQuestion, detection_of, grounding_questions, sample_by_kind
from virft.scenes.render import Scene, SceneObject
from virft.types import Box, Label

STRANGE_FRAC = 0.2
"""Fraction of the questions about a present name that have a meaningless word in its place. Without them, the model
learns to answer "No Objects" for every unknown name, and GRPO would have no reward variance to start from."""
NUM_ABSENT = 2
NUM_CATEGORIES = 2
NUM_GROUNDING = 3
WORD, STRANGE = 0, 1
_BLACK = np.zeros((SIZE, SIZE, 3), np.uint8)


class SceneFits:
    """Which objects of a scene a name or a category fits."""

    def __init__(self, assets: Assets) -> None:
        self.assets = assets

    def fits(self, one: SceneObject, query: str) -> bool:
        """Return True if the object has this name or is of this category."""
        return query == one.class_name or query in self.assets.categories[one.class_name]

    def boxes(self, scene: Scene, query: str) -> list[Box]:
        """Return the boxes of all objects of a name or category, sorted by x1, then y1."""
        return sorted((o.box for o in scene.objects if self.fits(o, query)), key=lambda box: (box.x1, box.y1))


class PhotoQuestionWriter(SceneFits):
    """Writes tokenised questions and answers about a composite."""

    def __init__(self, tokenizer: Qwen2Tokenizer, assets: Assets) -> None:
        super().__init__(assets)
        self.tokenizer = tokenizer
        self.pad_id = tokenizer.pad_token_id
        self.image_token_id = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        self.category_names = tuple(sorted({c for name in assets.names for c in assets.categories[name]}))
        self.words = StrangeWords((*assets.names, *self.category_names))
        head, tail = IMAGE_TOKENS["start_image_token"], IMAGE_TOKENS["end_image_token"]
        self.prefix_ids = [
            *token_ids(self.tokenizer, f"<|im_start|>user\n{head}"),
            *[self.image_token_id] * NUM_IMAGE_TOKENS,
            *token_ids(self.tokenizer, tail),
        ]

    def write(self, scene: np.ndarray, rng: np.random.Generator) -> Iterator[Written]:
        """Yield questions about a scene, given by its records, in random order."""
        objects = objects_of(scene, self.assets.names)
        found = Scene(image=_BLACK, objects=objects)
        questions = list(self.questions(found, rng))
        for index in rng.permutation(len(questions)):
            yield self._written(questions[index], found, rng)

    def questions(self, scene: Scene, rng: np.random.Generator) -> Iterator[SceneQuestion]:
        """Yield questions of all kinds.

        Categories are queried only if those of all objects are known, names only if no category has the same name.
        """
        present = list(dict.fromkeys(o.class_name for o in scene.objects))
        for query in (*present, *self._absent(present, rng)):
            yield self.detection(scene, query)
        known = all(self.assets.categories[name] for name in present)
        if known and present:
            shown = list(dict.fromkeys(c for name in present for c in self.assets.categories[name]))
            others = [c for c in self.category_names if c not in shown]
            for query in rng.permutation(shown)[:NUM_CATEGORIES]:
                yield self.detection(scene, str(query))
            yield self.detection(scene, str(rng.choice(others)))
            yield from self._naming(scene, shown, rng)
        grouped = Scene(image=_BLACK, objects=tuple(self._with_group(o) for o in scene.objects))
        fitting = [
            one
            for one in grounding_questions(grouped)
            if (known or one.class_name is not None) and one.class_name not in self.category_names
        ]
        yield from sample_by_kind(rng, fitting, NUM_GROUNDING)

    def detection(self, scene: Scene, query: str) -> SceneQuestion:
        """Return the question about all objects of a name or category."""
        return detection_of(query, self.boxes(scene, query))

    def _absent(self, present: list[str], rng: np.random.Generator) -> list[str]:
        """Return NUM_ABSENT names that are not shown; half of them of a category that is shown."""
        # in order: a set of texts has another order in every process, and a resumed run would train on other questions
        shown = dict.fromkeys(c for name in present for c in self.assets.categories[name])
        related = [name for c in shown for name in self.assets.kin.get(c, ()) if name not in present]
        made: list[str] = []
        while len(made) < NUM_ABSENT:
            pool = related if related and rng.random() < 0.5 else self.assets.names
            name = pool[int(rng.integers(len(pool)))]
            if name not in present and name not in shown and name not in made:
                made.append(name)
        return made

    def _naming(self, scene: Scene, shown: list[str], rng: np.random.Generator) -> Iterator[SceneQuestion]:
        """Yield the question which of a category the only object of that category is."""
        single = [c for c in shown if sum(self.fits(o, c) for o in scene.objects) == 1]
        if not single:
            return
        category = single[int(rng.integers(len(single)))]
        (one,) = [o for o in scene.objects if self.fits(o, category)]
        if one.class_name != category:
            yield SceneQuestion(
                task="classification",
                query=category,
                target=Label(text=one.class_name),
                class_name=one.class_name,
                kind="lookalikes",
            )

    def _with_group(self, one: SceneObject) -> SceneObject:
        """Return the object with its widest category as its group."""
        categories = self.assets.categories[one.class_name]
        return replace(one, group=categories[-1] if categories else "thing")

    def _written(self, one: SceneQuestion, scene: Scene, rng: np.random.Generator) -> Written:
        thinking = bool(rng.random() < THINKING_FRAC)
        query, meaning = one.query, WORD
        if one.task == "detection" and one.kind == "present" and rng.random() < STRANGE_FRAC:
            query, meaning, thinking = self.words.draw(rng), STRANGE, False
        return written(self.tokenizer, one, scene, query, meaning=meaning, thinking=thinking)


class StrangeWords:
    """Meaningless words that are spelt like the names: each letter is drawn from those that follow the two before it.

    Words of a few fixed syllables could be distinguished from a new name by their spelling alone.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.known = frozenset(names)
        self.next: dict[str, list[str]] = {}
        for word in sorted({word for name in names for word in name.split()}):
            for index, letter in enumerate(f"{word}$"):
                self.next.setdefault(f"^^{word}"[index : index + 2], []).append(letter)

    def draw(self, rng: np.random.Generator) -> str:
        """Return a word of 4 to 10 letters that is not a name."""
        while True:
            word = "^^"
            while not word.endswith("$"):
                following = self.next[word[-2:]]
                word += following[int(rng.integers(len(following)))]
            if 4 <= len(word) - 3 <= 10 and word[2:-1] not in self.known:
                return word[2:-1]


def token_finder(tokenizer: Qwen2Tokenizer) -> Callable[[str], list[int]]:
    """Return a function from a name to its tokens, as they are after a space."""
    return lambda name: tokenizer(f" {name}", add_special_tokens=False).input_ids
