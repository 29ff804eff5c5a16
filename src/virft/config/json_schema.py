"""JSON Schema of the TOML files of settings, for editors that complete and check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from virft.config.fitting import may_be_fitted
from virft.config.schema import MIXTURE, Config, describe_section, needed_by, sections, settings_of
from virft.config.setting import REQUIRED, Setting, alternatives

SCHEMA_NAME = "virft.schema.json"
SCHEMA_ADDRESS = f"https://virft.github.io/virft/{SCHEMA_NAME}"
"""Address of the schema of the published documentation."""

_TYPES: Mapping[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean"}


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a TOML file of settings; ``docs/virft.schema.json`` is a copy.

    Nothing is required but the folder of each dataset of a mixture, as any other setting may be on the command line.

    >>> config_schema()["properties"]["grpo"]["properties"]["group_size"]["minimum"]
    2
    """
    properties = {setting.key: _property(setting) for setting in settings_of(Config)}
    for name, section in sections().items():
        if name == MIXTURE:
            # a name of letters, digits, _ and - for each dataset
            parts = {"patternProperties": {"^[A-Za-z0-9_-]+$": _table(section, required=["data"])}}
            properties["mixture"] = {
                "type": "object",
                "description": "Several training datasets by name, in place of data.train.",
                **parts,
                "additionalProperties": False,
            }
        else:
            properties[name] = _table(section)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ADDRESS,
        "title": "Settings of virft",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _table(section: type, *, required: list[str] | None = None) -> dict[str, Any]:
    properties = {setting.key.rpartition(".")[2]: _property(setting) for setting in settings_of(section)}
    return {
        "type": "object",
        "description": describe_section(section),
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _property(setting: Setting) -> dict[str, Any]:
    """Return the schema of one setting. TOML has no null: a default of "not set" is not written."""
    unit = f" Unit: {setting.unit}." if setting.unit else ""
    needs = f" Has an effect if {needed}." if (needed := needed_by(setting.key)) else ""
    source = f" Source: {setting.source}." if setting.source else ""
    fitted = " If it is not set: fitted to model and data." if may_be_fitted(setting.key) else ""
    default = setting.default
    if default is REQUIRED or default is None:
        defaults = {}
    else:
        defaults = {"default": list(default) if isinstance(default, tuple) else default}
    return {"description": f"{setting.help}{unit}{needs}{fitted}{source}", **_value(setting), **defaults}


def _value(setting: Setting) -> dict[str, Any]:
    kind = next(option for option in alternatives(setting.kind) if option is not type(None))
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _scalar(get_args(kind)[0], setting)}
    if get_origin(kind) is Mapping:
        return {"type": "object", "additionalProperties": _scalar(float, setting)}
    return _scalar(kind, setting)


def _scalar(kind: Any, setting: Setting) -> dict[str, Any]:
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if kind is str:
        return {"type": "string", "minLength": 1}
    limits = {"minimum": setting.at_least, "exclusiveMinimum": setting.above, "maximum": setting.at_most}
    return {"type": _TYPES[kind], **{name: limit for name, limit in limits.items() if limit is not None}}
