"""The model families that virft can drive, by ``model_type``."""

from virft.errors import ModelError
from virft.models.families.family import Family
from virft.models.families.gemma3 import GEMMA3
from virft.models.families.idefics import IDEFICS3, SMOLVLM
from virft.models.families.internvl import INTERNVL
from virft.models.families.llava_onevision import LLAVA_ONEVISION
from virft.models.families.qwen import QWEN2_5_VL, QWEN2_VL, QWEN3_VL

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, SMOLVLM, IDEFICS3, INTERNVL, LLAVA_ONEVISION, GEMMA3)
}


def family_of(model_type: str) -> Family:
    """The row of a configuration's ``model_type``; ``ModelError`` names the types there are."""
    if model_type not in FAMILIES:
        raise ModelError(f"models of type {model_type!r} are not supported; supported are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Family", "family_of"]
