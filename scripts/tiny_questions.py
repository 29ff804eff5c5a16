"""Training questions and answers of virft-tiny: text and tokens for ``train_tiny.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from packed_questions import Written
from transformers import Qwen2Tokenizer

from virft.geometry.boxes import BoxSpace
from virft.models.tiny import IMAGE_SIZE
from virft.scenes import SCENE_TASKS
from virft.scenes.assets import THING, Style, class_names, group_names, group_of, scene_classes, thing_names
from virft.scenes.questions import SceneQuestion, classification_question, detection_question, questions_for
from virft.scenes.render import Scene, SceneObject
from virft.tasks import TASKS
from virft.text.answers import render_classification, render_detection, render_grounding
from virft.text.prompts import fill_template
from virft.types import Box, Detection, Detections, ImageSize, Label

SIZE = ImageSize(IMAGE_SIZE, IMAGE_SIZE)
THINKING_FRAC = 0.25
"""Fraction of questions with thinking."""
STRANGE_FRAC = 0.12
"""Fraction of the questions about a present class that name it by a meaningless word. Without them, the model learns to
answer "No Objects" for every unknown name, and GRPO would have no reward variance to start from."""
NAMES = class_names("base")
KINDS = (*NAMES, *thing_names())
"""Names of all objects: base classes, then things."""
WORD, NO_KIND = -2, -1
"""Meaning of the name in a question: the word, or nothing; any other number is the index of a thing in ``KINDS``."""
_NO_MASK = np.zeros((1, 1), bool)


def scene_of(records: np.ndarray) -> Scene:
    """Return the scene of object records [kind, x1, y1, x2, y2, visible] (kind < 0: none), with a black image."""
    objects = tuple(
        SceneObject(
            class_name=KINDS[int(kind)],
            group=group_of(KINDS[int(kind)]),
            style=Style.FLUENT,
            box=Box(x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2)),
            visible_frac=float(visible),
            image_size=SIZE,
            patch_mask=_NO_MASK,
            patch_origin=(0, 0),
        )
        for kind, x1, y1, x2, y2, visible in records
        if kind >= 0
    )
    return Scene(image=_BLACK, objects=objects)


_BLACK = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


def reasoning(one: SceneQuestion, size: ImageSize = SIZE) -> str:
    """Return a short think text with one step towards the answer: the number of objects, the class, or the place."""
    if isinstance(one.target, Detections):
        count = len(one.target.items)
        row = scene_classes().get(one.query)
        name = row.plural if row is not None and count > 1 else one.query
        return f"I see {count or 'no'} {name}."
    if isinstance(one.target, Label):
        return " ".join(("This", one.query, "looks", "like", "a", f"{one.target.text}."))
    box = one.target
    across = ("left", "middle", "right")[min(2, int(3 * (box.x1 + box.x2) / 2 / size.width))]
    down = ("top", "centre", "bottom")[min(2, int(3 * (box.y1 + box.y2) / 2 / size.height))]
    return f"It is at the {down} {across}."


def answer(one: SceneQuestion, scene: Scene, thinking: bool) -> str:
    """Return the ground truth as a completion. The confidence depends on the visible fraction of the object."""
    thinking_text = reasoning(one, scene.size) if thinking else None
    space = {"space": BoxSpace.RELATIVE_1000, "original": scene.size, "resized": scene.size}
    if isinstance(one.target, Detections):
        visible = {o.box: o.visible_frac for o in scene.objects}
        items = tuple(replace(d, confidence=0.9 if visible[d.box] > 0.9 else 0.7) for d in one.target.items)
        return render_detection(Detections(items=items), **space, thinking_text=thinking_text)
    if isinstance(one.target, Label):
        return render_classification(one.target, thinking_text=thinking_text)
    return render_grounding(one.target, **space, thinking_text=thinking_text)


class QuestionWriter:
    """Writes tokenised questions and answers about a scene."""

    def __init__(self, tokenizer: Qwen2Tokenizer, num_image_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.pad_id = tokenizer.pad_token_id
        self.image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        head = token_ids(self.tokenizer, "<|im_start|>user\n<|vision_start|>")
        self._strange_words = strange_words(tokenizer)
        self.prefix_ids = [
            *head,
            *[self.image_token_id] * num_image_tokens,
            *token_ids(self.tokenizer, "<|vision_end|>"),
        ]

    def write(self, records: np.ndarray, rng: np.random.Generator) -> Iterator[Written]:
        """Yield questions about a scene in random order."""
        everything = scene_of(records)
        named = tuple(o for o in everything.objects if o.group != THING)
        scene = Scene(image=_BLACK, objects=named)
        questions = list(questions_for(scene, rng, classes=NAMES, num_absent=2, num_grounding=3))
        if len(named) < len(everything.objects):
            # A thing may be an animal too: only questions that name a class have a unique answer.
            questions = [one for one in questions if one.class_name is not None]
        else:
            groups = [o.group for o in named]
            main = max(named, key=lambda o: o.box.area)
            if groups.count(main.group) == 1:
                questions.append(classification_question(scene, main.class_name))
        questions += self._about_things(everything, rng)
        for index in rng.permutation(len(questions)):
            yield self._written(questions[index], everything, rng)

    def _about_things(self, scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
        """Return detection questions about most of the things in the scene and, often, about an absent one."""
        present = dict.fromkeys(o.class_name for o in scene.objects if o.group == THING)
        names = [name for name in present if rng.random() < 0.7]
        other = KINDS[int(rng.integers(len(NAMES), len(KINDS)))]
        if other not in present and rng.random() < 0.35:
            names.append(other)
        return [detection_question(scene, name) for name in names]

    def _written(self, one: SceneQuestion, scene: Scene, rng: np.random.Generator) -> Written:
        thinking = bool(rng.random() < THINKING_FRAC)
        query, meaning = one.query, WORD
        if one.class_name not in (None, *NAMES):
            meaning = KINDS.index(one.class_name)
        elif one.kind == "present" and rng.random() < STRANGE_FRAC:
            meaning = NO_KIND
        if meaning != WORD:
            query, thinking = self._strange_words[int(rng.integers(len(self._strange_words)))], False
        return written(self.tokenizer, one, scene, query, meaning=meaning, thinking=thinking)


def written(
    tokenizer: Qwen2Tokenizer, one: SceneQuestion, scene: Scene, query: str, *, meaning: int, thinking: bool
) -> Written:
    """Return the tokens of a question, with ``query`` for the object's name, and of its answer."""
    text = fill_template(TASKS[one.task].prompts, query, template="short", thinking=thinking)
    question = token_ids(tokenizer, f"{text}<|im_end|>\n<|im_start|>assistant\n")
    (period,) = token_ids(tokenizer, ".")
    query_at = question.index(period) - 1 if period in question else None
    return Written(
        question=question,
        answer=token_ids(tokenizer, answer(one, scene, thinking) + "<|im_end|>"),
        query_at=None if isinstance(one.target, Label) else query_at,
        boxes=TASKS[one.task].target_boxes(one.target),
        meaning=meaning,
    )


def token_ids(tokenizer: Qwen2Tokenizer, text: str) -> list[int]:
    """Return the token ids of a text without special tokens."""
    return tokenizer(text, add_special_tokens=False).input_ids


def strange_words(tokenizer: Qwen2Tokenizer) -> list[str]:
    """Return words of the vocabulary that are in no question, answer or class name."""
    used = {word for name in class_names() for word in name.split()} | set(group_names())
    used |= {word for row in scene_classes().values() for word in row.plural.split()}
    used |= set(_QUESTION_WORDS.split())
    words = {token.removeprefix("Ġ") for token in tokenizer.get_vocab() if token.startswith("Ġ")}
    return sorted(word for word in words if word.isascii() and word.isalpha() and len(word) > 2 and word not in used)


_QUESTION_WORDS = (
    "the only largest smallest leftmost rightmost topmost bottommost second third fourth from left right top bottom of "
    "above below middle centre which this think first see like looks not and Objects"
)


def corpus() -> Iterable[str]:
    """Return the training texts of the tokenizer: the words of questions and answers.

    They have the names of all classes, because a usual tokenizer also has words whose objects the model has never seen;
    no training question has those of novel and held-out classes.
    """
    scene = scene_of(np.array([[0, 1, 2, 30, 40, 1.0], [1, 50, 50, 90, 99, 1.0]]))
    box = Box(x1=1, y1=2, x2=30, y2=40)
    texts = ["user", "assistant", "system"]
    for thinking in (False, True):
        for name in NAMES:
            for task in SCENE_TASKS:
                texts.append(fill_template(TASKS[task].prompts, name, template="short", thinking=thinking))
                texts.append(fill_template(TASKS[task].prompts, name, template="paper", thinking=thinking))
            for group in group_names():
                texts.append(fill_template(TASKS["classification"].prompts, group, template="short", thinking=thinking))
            facts = [
                ("detection", name, Detections(items=(Detection(box=scene.objects[0].box),) * count))
                for count in (0, 1, 2)
            ]
            facts += [("classification", group, Label(text=name)) for group in group_names()]
            facts += [("grounding", "the", box)]
            for task, query, target in facts:
                one = SceneQuestion(task=task, query=query, target=target, class_name=name, kind="name")
                texts.append(answer(one, scene, thinking))
            for words in ("only", "largest", "smallest", "leftmost", "rightmost", "topmost", "bottommost", "second"):
                texts.append(f"Locate the {words} {name} from the left of the {name} right of the {name} above below.")
    for down in ("top", "centre", "bottom"):
        for across in ("left", "middle", "right"):
            texts += [f"It is at the {down} {across}."] * 10
    for name in class_names():
        texts += [f"Detect {name}.", f"<answer>{name}</answer>"] * 30
    texts += ["I see 2 " + scene_classes()[name].plural + "." for name in NAMES] * 3
    return texts
