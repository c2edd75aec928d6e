#!/usr/bin/env python3
"""Makes values.schema.json and the table of README.md from the comments in the chart's values.yaml.

    tests/chart/generate.py            writes both
    tests/chart/generate.py --check    exits 1 if either is not as it would be written

Why not readme-generator-for-helm: its schema has types and descriptions and nothing else. It neither closes objects (a key with a
spelling mistake would pass, which is what a schema is for) nor knows enumerations, patterns and bounds, and it wants the full path
of every value repeated in a comment, which is one more thing to drift. This is smaller than what would have to be put over its output.

Comments, directly above a key:

    # -- Description, in as many lines as it takes.
    # @schema {enum: [a, b]}          put over what follows from the value; `free: true` leaves an object open
    ## @section Title                 begins a part of the table

Every value has a description. An object with keys is closed and its keys are described; an empty one is open.
The schema is draft 7: what Helm 3.17 and Helm 4 both check.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "sidelight"
BEGIN = "<!-- values: made of values.yaml by tests/chart/generate.py -->"
END = "<!-- end of values -->"
SECTION = re.compile(r"^## @section (.+)$")


class Fault(Exception):
    """What is wrong with values.yaml, with its line."""


class Value:
    """A key of values.yaml, with what the comments above it say."""

    def __init__(self, path: list[str], value: Any, description: str, extra: dict[str, Any], section: str) -> None:
        self.path = path
        self.value = value
        self.description = description
        self.extra = extra
        self.section = section
        self.children: list[Value] = []


def comments_above(lines: list[str], line: int) -> list[str]:
    """The comment lines that end right above a line (counted from 0), without their indentation."""
    found: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].strip())
    return found


def read_comment(comments: list[str], line: int) -> tuple[str, dict[str, Any]]:
    """Description and additions to the schema. Lines before "# --" are for readers of values.yaml."""
    description: list[str] = []
    extra: dict[str, Any] = {}
    begun = False
    for comment in comments:
        text = comment.lstrip("#").strip()
        if text.startswith("@schema"):
            addition = yaml.safe_load(text.removeprefix("@schema"))
            if not isinstance(addition, dict):
                raise Fault(f"values.yaml:{line + 1}: @schema is followed by an object, as {{minimum: 1}}")
            extra |= addition
        elif text.startswith("-- "):
            description, begun = [text.removeprefix("-- ")], True
        elif begun and not comment.startswith("##"):
            description.append(text)
    return " ".join(description), extra


def construct(node: yaml.Node) -> Any:
    """The value of a node."""
    loader = yaml.SafeLoader("")
    return loader.construct_object(node, deep=True)


def walk(node: yaml.MappingNode, lines: list[str], path: list[str], section: str) -> list[Value]:
    """All keys of a mapping, in order."""
    values: list[Value] = []
    for key, child in node.value:
        line = key.start_mark.line
        above = comments_above(lines, line)
        if not path:
            # A section's comment stands by itself, above the comment of its first key.
            for earlier in lines[:line]:
                if match := SECTION.match(earlier):
                    section = match.group(1)
        description, extra = read_comment(above, line)
        value = Value([*path, key.value], construct(child), description, extra, section)
        if isinstance(child, yaml.MappingNode) and child.value and not extra.get("free"):
            value.children = walk(child, lines, value.path, section)
        elif not description:
            raise Fault(f"values.yaml:{line + 1}: {'.'.join(value.path)} has no description (# -- …)")
        values.append(value)
    return values


def type_of(value: Any) -> dict[str, Any]:
    """The type that follows from a default."""
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array"}
        case dict():
            return {"type": "object"}
    return {}


def schema_of(value: Value) -> dict[str, Any]:
    """The schema of one value."""
    schema: dict[str, Any] = {}
    if value.description:
        schema["description"] = value.description
    schema |= type_of(value.value)
    if value.children:
        schema["additionalProperties"] = False
        schema["properties"] = {child.path[-1]: schema_of(child) for child in value.children}
    elif value.value is not None and not isinstance(value.value, dict):
        schema["default"] = value.value
    schema |= {key: part for key, part in value.extra.items() if key != "free"}
    if "type" not in schema and "enum" not in schema:
        raise Fault(f"{'.'.join(value.path)}: no type follows from an empty default; say one (# @schema {{type: …}})")
    return schema


def make_schema(values: list[Value]) -> str:
    """values.schema.json."""
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart sidelight",
        "type": "object",
        "additionalProperties": False,
        # YAML anchors that other values refer to.
        "patternProperties": {"^x-": True},
        "properties": {
            # What a chart that has this one as a dependency puts here.
            "global": {"description": "Values of all charts of a release. This one reads none of them.", "type": "object"},
            "enabled": {"description": "For the condition of a chart that has this one as a dependency.", "type": "boolean"},
            **{value.path[-1]: schema_of(value) for value in values},
        },
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def cell(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return text.replace("|", "\\|")


def rows(value: Value) -> list[str]:
    """The rows of a value and those below it."""
    if value.children:
        return [row for child in value.children for row in rows(child)]
    default = json.dumps(value.value, ensure_ascii=False)
    name = ".".join(value.path)
    description = value.description
    choices = value.extra.get("enum")
    if choices and not all(f"`{choice}`" in description for choice in choices if choice):
        description += f" One of {', '.join(f'`{choice}`' for choice in choices if choice)}."
    return [f"| `{name}` | {cell(description)} | `{cell(default)}` |"]


def make_table(values: list[Value]) -> str:
    """The part of README.md between the two marks."""
    parts: list[str] = []
    section = ""
    for value in values:
        if value.section != section:
            section = value.section
            parts += ["", f"### {section}", "", "| value | what | default |", "|---|---|---|"]
        parts += rows(value)
    return "\n".join([BEGIN, *parts, "", END])


def main() -> int:
    """Writes, or compares."""
    text = (CHART / "values.yaml").read_text()
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise Fault("values.yaml is no mapping")
    values = walk(root, text.split("\n"), [], "")
    readme = (CHART / "README.md").read_text()
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise Fault(f"README.md lacks the marks {BEGIN} and {END}")
    before, rest = readme.split(BEGIN)
    made = {
        CHART / "values.schema.json": make_schema(values),
        CHART / "README.md": before + make_table(values) + rest.split(END)[1],
    }
    stale = [path for path, content in made.items() if not path.exists() or path.read_text() != content]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is not what values.yaml says: run tests/chart/generate.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(made[path])
        print(f"{path.name} written")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Fault as fault:
        print(fault, file=sys.stderr)
        sys.exit(1)
