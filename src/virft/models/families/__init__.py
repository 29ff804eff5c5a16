"""The model families that virft supports: one row of facts for each, found by ``model_type``.

A row names the module of its functions and says what differs from the defaults of ``family_from``. A family like one
that exists is that row with a few changes, see ``QWEN2_5_VL``. Everything else follows from the row: LoRA targets,
freezing, rendering, sampling, tests of exactness.
"""

from dataclasses import replace

from virft.errors import ModelError
from virft.geometry.boxes import BoxSpace
from virft.models.attention.shared_prompt import VISION_ATTENTION
from virft.models.families import gemma3, gemma4, glm, idefics, internvl, llava_onevision, qwen
from virft.models.families.family import Family, family_from
from virft.models.families.tiles import token_blocks

QWEN2_VL = family_from(
    qwen,
    model_type="qwen2_vl",
    box_space=BoxSpace.RELATIVE_1000,
    vision_names=("model.visual.",),
    projector_names=("model.visual.merger.",),
    vision_attention=VISION_ATTENTION,
    prompt_positions=qwen.prompt_positions,
    forward_features=qwen.forward_features,
    on_vllm=True,
)
QWEN2_5_VL = replace(QWEN2_VL, model_type="qwen2_5_vl", box_space=BoxSpace.RESIZED_PIXELS)
QWEN3_VL = replace(
    QWEN2_VL,
    model_type="qwen3_vl",
    projector_names=("model.visual.merger.", "model.visual.deepstack_merger_list."),
)

QWEN3_VL_MOE = replace(QWEN3_VL, model_type="qwen3_vl_moe", on_vllm=False)

GLM4V = family_from(
    glm,
    model_type="glm4v",
    box_space=BoxSpace.RELATIVE_1000,
    vision_names=("model.visual.",),
    projector_names=("model.visual.merger.", "model.visual.downsample."),
    vision_attention=VISION_ATTENTION,
    prompt_positions=glm.prompt_positions,
    forward_features=glm.forward_features,
)
GLM4V_MOE = replace(GLM4V, model_type="glm4v_moe")

IDEFICS3 = family_from(
    idefics,
    model_type="idefics3",
    box_space=BoxSpace.RELATIVE_1000,
    language_module="model.text_model",
    vision_names=("model.vision_model.", "model.connector."),
    projector_names=("model.connector.",),
)
SMOLVLM = replace(IDEFICS3, model_type="smolvlm", forward_features=token_blocks)

INTERNVL = family_from(
    internvl,
    model_type="internvl",
    box_space=BoxSpace.RELATIVE_1000,
    vision_names=("model.vision_tower.", "model.multi_modal_projector."),
    projector_names=("model.multi_modal_projector.",),
)

LLAVA_ONEVISION = family_from(
    llava_onevision,
    model_type="llava_onevision",
    box_space=BoxSpace.RELATIVE_1000,
    vision_names=("model.vision_tower.", "model.multi_modal_projector.", "model.image_newline"),
    projector_names=("model.multi_modal_projector.", "model.image_newline"),
    forward_features=llava_onevision.forward_features,
    images_first=True,
)

GEMMA3 = family_from(
    gemma3,
    model_type="gemma3",
    box_space=BoxSpace.RELATIVE_1000,
    vision_names=("model.vision_tower.", "model.multi_modal_projector."),
    projector_names=("model.multi_modal_projector.",),
    placeholder="boi_token_id",
    bidirectional_images=True,
)

GEMMA4 = family_from(
    gemma4,
    model_type="gemma4",
    box_space=BoxSpace.RELATIVE_1000,
    # The towers and projectors of sounds too: nothing trains them.
    vision_names=("model.vision_tower.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio."),
    projector_names=("model.embed_vision.",),
    forward_features=gemma4.forward_features,
)

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        QWEN2_VL,
        QWEN2_5_VL,
        QWEN3_VL,
        QWEN3_VL_MOE,
        GLM4V,
        GLM4V_MOE,
        SMOLVLM,
        IDEFICS3,
        INTERNVL,
        LLAVA_ONEVISION,
        GEMMA3,
        GEMMA4,
    )
}


_LINEAR = "their linear-attention layers carry a recurrent state from token to token"
_REFUSED = {
    "lfm2_vl": "their short convolutions read the tokens before each token in the row",
    "qwen3_5": _LINEAR,
    "qwen3_5_moe": _LINEAR,
}
"""Types of models that are known and refused, with the reason, see docs/design.md."""


def family_of(model_type: str) -> Family:
    """Return the row of a configuration's ``model_type``.

    Raises ``ModelError``, which names the supported types, for any other.
    """
    if (reason := _REFUSED.get(model_type)) is not None:
        raise ModelError(
            f"models of type {model_type!r} are not supported: {reason}, which prefix sharing would have to fork for "
            f"each completion; supported are {', '.join(FAMILIES)}"
        )
    if model_type not in FAMILIES:
        hint = ""
        if model_type.startswith(("internvl", "llava")):
            hint = "; expected the model in the format of transformers, whose hub id ends in -hf"
        raise ModelError(f"models of type {model_type!r} are not supported; supported are {', '.join(FAMILIES)}{hint}")
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Family", "family_of"]
