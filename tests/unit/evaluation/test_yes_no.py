"""P(yes) of predicted boxes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from factories import labelled
from virft.cli.build_scenes import build_scenes
from virft.data.store import Store
from virft.errors import ModelError
from virft.evaluation.predictions import SizedPrediction
from virft.evaluation.yes_no import YES_NO_QUESTION, YesNoConfidence
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.models.load import load_as_trained
from virft.models.policy import make_policy
from virft.types import Box, FinishReason, ImageSize, Prediction, Sample

BOXES = [Box(x1=5, y1=8, x2=40, y2=60), Box(x1=0, y1=0, x2=112, y2=112), Box(x1=50, y1=20.4, x2=51, y2=90)]
SIZE = ImageSize(112, 112)
TEXT = "<answer>[{'Position':[45,71,357,536],'Confidence':0.9},{'Position':[0,0,1000,1000],'Confidence':0.5}]</answer>"


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Sample:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    build_scenes(out=folder, task="detection", classes=["base"], questions=1, size=112)
    return Store(folder)[0]


@pytest.fixture(scope="module")
def parts():
    loaded = load_as_trained("virft-tiny", dtype="float32")
    render = make_renderer(loaded, resolve_prompting(loaded, template="auto", thinking=False))
    policy = make_policy(loaded, temperature=1.0)
    scorer = YesNoConfidence(
        policy,
        loaded.tokenizer,
        render=render,
        thinking=False,
        space=loaded.family.box_space,
        device=torch.device("cpu"),
    )
    return SimpleNamespace(loaded=loaded, render=render, policy=policy, scorer=scorer)


def first_ids(tokenizer, words):
    return {tokenizer(word).input_ids[0] for word in words}


def plain_probability(parts, sample: Sample, corners: str) -> float:
    """P(yes) from a forward pass of transformers on the whole prompt of one box."""
    question = YES_NO_QUESTION.replace("{box}", corners).replace("{query}", sample.query)
    rendered = parts.render(replace(sample, question=question))
    vision = rendered.vision
    ids = torch.tensor(rendered.prompt.token_ids)[None]
    with torch.no_grad():
        logits = parts.loaded.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == parts.loaded.model.config.image_token_id).int(),
            pixel_values=vision.pixel_values,
            image_grid_thw=vision.per_image["grid_thw"],
        ).logits[0, -1]
    tokenizer = parts.loaded.tokenizer
    forbidden = list(parts.loaded.family.forbidden_token_ids(tokenizer, parts.loaded.model.config))
    logits[forbidden] = float("-inf")
    probs = logits.softmax(-1)
    yes = sum(float(probs[one]) for one in first_ids(tokenizer, ("yes", "Yes", "YES", " yes", " Yes")))
    no = sum(float(probs[one]) for one in first_ids(tokenizer, ("no", "No", "NO", " no", " No")))
    return yes / (yes + no)


def test_the_boxes_of_an_answer_in_one_row_equal_a_forward_pass_for_each(parts, sample: Sample) -> None:
    corners = ["[45, 71, 357, 536]", "[0, 0, 1000, 1000]", "[446, 182, 455, 804]"]
    found = parts.scorer.probabilities(sample, BOXES, resized=SIZE)
    assert found == pytest.approx([plain_probability(parts, sample, one) for one in corners], abs=1e-5)
    assert len({round(one, 4) for one in found}) == 3  # the box matters
    alone = [parts.scorer.probabilities(sample, [box], resized=SIZE)[0] for box in BOXES]
    assert found == pytest.approx(alone, abs=1e-6)
    assert parts.scorer.probabilities(sample, [BOXES[0]] * 2, resized=SIZE) == pytest.approx([found[0]] * 2, abs=1e-6)


def test_each_box_of_a_prediction_gets_a_probability(parts, sample: Sample) -> None:
    def predicted(text: str) -> SizedPrediction:
        return SizedPrediction(Prediction(sample_id=sample.id, text=text, finish_reason=FinishReason.STOP), SIZE)

    others = [predicted("<answer>No Objects</answer>"), predicted("no idea")]
    found = parts.scorer.score([sample] * 3, [predicted(TEXT), *others])
    assert len(found[0].prediction.yes_probs) == 2
    assert all(0 < one < 1 for one in found[0].prediction.yes_probs)
    assert found[1:] == others


def test_a_box_with_a_label_is_confirmed_as_its_label(parts, sample: Sample) -> None:
    content = "[{'Position':[45,71,357,536],'Label':'cat'},{'Position':[45,71,357,536],'Label':'fox'}]"
    several = replace(sample, task="multiclass_detection", query="cat, fox", target=labelled(classes=("cat", "fox")))
    prediction = Prediction(sample_id=sample.id, text=f"<answer>{content}</answer>", finish_reason=FinishReason.STOP)
    (found,) = parts.scorer.score([several], [SizedPrediction(prediction, SIZE)])
    (cat,), (fox,) = (
        parts.scorer.probabilities(replace(sample, query=name), BOXES[:1], resized=SIZE) for name in ("cat", "fox")
    )
    assert list(found.prediction.yes_probs) == pytest.approx([cat, fox], abs=1e-6)
    assert cat != fox


def test_a_tokenizer_that_cannot_distinguish_yes_from_no_is_refused(parts) -> None:
    with pytest.raises(ModelError, match="same token"):
        YesNoConfidence(
            parts.policy,
            lambda word, add_special_tokens: SimpleNamespace(input_ids=[0, *map(ord, word)]),
            render=parts.render,
            thinking=False,
            space=parts.loaded.family.box_space,
            device=torch.device("cpu"),
        )
