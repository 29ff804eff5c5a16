"""GLM-4.1V and GLM-4.5V: prompts and sizes equal those of transformers' own processor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import Glm4vProcessor
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from factories import sample
from tiny_folders import striped_image, tiny_chat_model, tiny_image_processor, tiny_tokenizer
from virft.errors import DataError, ModelError
from virft.models.families import family_of
from virft.models.load import wrap_model
from virft.models.renderer import RenderedPrompt, Renderer
from virft.types import ImageSize

MODELS = ("glm4v", "glm4v_moe")
SIZES = [(60, 40)], [(16, 16)], [(30, 90)], [(200, 31)], [(60, 40), (20, 50)], [(48, 48), (16, 12)]


class Processor(Glm4vProcessor):
    """The processor of transformers without videos, which need torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> None:
        pass


def render(model_type: str, sizes: list[tuple[int, int]], question: str = "Where is it?") -> RenderedPrompt:
    about_the_last = replace(
        sample(id="a"),
        images=tuple(str(number) for number in range(len(sizes))),
        image_sizes=tuple(ImageSize(*size) for size in sizes),
        target_image=len(sizes) - 1,
    )
    loaded = wrap_model(tiny_chat_model(model_type), tiny_tokenizer(model_type), tiny_image_processor(model_type))
    return Renderer(loaded, lambda path, view: striped_image(*sizes[int(path)], int(path))).render(
        about_the_last, question
    )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("model_type", MODELS)
def test_prompts_and_pixels_equal_those_of_the_processor(model_type: str, sizes: list[tuple[int, int]]) -> None:
    rendered = render(model_type, sizes)
    processor = Processor(tiny_image_processor(model_type), tiny_tokenizer(model_type), None)
    images = [striped_image(*size, number) for number, size in enumerate(sizes)]
    made = processor(images=images, text=[rendered.prompt.text], return_tensors="pt")
    assert list(rendered.prompt.token_ids) == made["input_ids"][0].tolist()
    assert torch.equal(rendered.vision.pixel_values, made["pixel_values"])
    assert torch.equal(rendered.vision.per_image["grid_thw"], made["image_grid_thw"])
    sides = [(image.resized.height // 4, image.resized.width // 4) for image in rendered.prompt.images]
    assert sides == [tuple(grid) for grid in made["image_grid_thw"][:, 1:].tolist()]


def test_the_image_processor_of_glm_4_6v_resizes_alike() -> None:
    settings = {"size": {"shortest_edge": 512, "longest_edge": 4608}, "patch_size": 4}
    measure = family_of("glm4v").measure_images
    for size in ((60, 40), (30, 90), (200, 31), (7, 5)):
        made = Glm46VImageProcessorPil(**settings)([striped_image(*size)], return_tensors="pt")
        found = measure(tiny_image_processor("glm4v"), [ImageSize(*size)])
        assert torch.equal(found.per_image["grid_thw"], made["image_grid_thw"])


def test_pixel_budgets_are_areas_of_one_image() -> None:
    family, processor = family_of("glm4v"), tiny_image_processor("glm4v")
    family.limit_pixels(processor, 900, 1500)
    for size in ((200, 200), (8, 8), (90, 31)):
        (seen,) = family.resized_sizes(processor, family.read_images(processor, [striped_image(*size)]))
        assert 900 <= seen.width * seen.height <= 1500


def test_markers_and_placeholders_are_forbidden() -> None:
    config, tokenizer = tiny_chat_model("glm4v").config, tiny_tokenizer("glm4v")
    forbidden = family_of("glm4v").forbidden_token_ids(tokenizer, config)
    names = {"<|image|>", "<|video|>"} | {
        f"<|{end}_of_{kind}|>" for end in ("begin", "end") for kind in ("image", "video")
    }
    assert {tokenizer.convert_ids_to_tokens(token) for token in forbidden} == names


def test_a_question_with_an_image_placeholder_is_refused() -> None:
    with pytest.raises(DataError, match="a: the question holds 1 image placeholders of its own; expected none"):
        render("glm4v", [(20, 20)], "Where is <|image|>?")


def test_rotary_axes_of_another_size_than_the_heads_are_refused() -> None:
    config = tiny_chat_model("glm4v").config
    family, processor = family_of("glm4v"), tiny_image_processor("glm4v")
    family.check_processor(processor, config, "m")
    config.text_config.rope_parameters["mrope_section"] = [1, 2, 1]
    with pytest.raises(
        ModelError, match=r"mrope_section in its config.json is \[1, 2, 1\]; expected .* sum is 3, half"
    ):
        family.check_processor(processor, config, "m")
