//! Compares a document with the JSON Schema of what it should be, so that all its faults are told at once, each
//! with its place. The schemas are derived from the types that are read afterwards: what passes here, loads.

use serde_json::Value as Json;

use super::diagnostics::Problem;
use super::document::{Node, Value};

/// Every place where `node` is not as `schema` says.
pub fn check(node: &Node, schema: &Json) -> Vec<Problem> {
    let mut problems = Vec::new();
    Shape { root: schema }.check(node, schema, &mut problems);
    problems
}

struct Shape<'s> {
    root: &'s Json,
}

impl<'s> Shape<'s> {
    /// What a reference stands for.
    fn resolve(&self, mut schema: &'s Json) -> &'s Json {
        while let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
            schema = &self.root["$defs"][name];
        }
        schema
    }

    /// The schemas of which one must hold, `null` apart, which stands for a key that is left out.
    fn alternatives(&self, schema: &'s Json) -> Option<Vec<&'s Json>> {
        let list = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array())?;
        Some(list.iter().map(|schema| self.resolve(schema)).filter(|schema| schema["type"] != "null").collect())
    }

    /// Texts that are allowed, when only some are.
    fn choices(&self, schema: &'s Json) -> Option<Vec<&'s str>> {
        if let Some(only) = schema["const"].as_str() {
            return Some(vec![only]);
        }
        if let Some(list) = schema["enum"].as_array() {
            return Some(list.iter().filter_map(Json::as_str).collect());
        }
        let alternatives = self.alternatives(schema)?;
        let each: Option<Vec<_>> = alternatives.into_iter().map(|schema| self.choices(schema)).collect();
        each.map(|each| each.concat())
    }

    /// Types that are allowed; none: every one.
    fn types(&self, schema: &'s Json) -> Vec<&'s str> {
        if let Some(alternatives) = self.alternatives(schema) {
            return alternatives.into_iter().flat_map(|schema| self.types(schema)).collect();
        }
        match &schema["type"] {
            Json::String(name) => vec![name],
            Json::Array(names) => names.iter().filter_map(Json::as_str).filter(|name| *name != "null").collect(),
            _ if self.choices(schema).is_some() => vec!["string"],
            _ => Vec::new(),
        }
    }

    /// Whether `null` stands for a key that is left out.
    fn may_be_null(&self, schema: &'s Json) -> bool {
        let is_null = |name: &Json| name == "null";
        schema["type"].as_array().is_some_and(|types| types.iter().any(is_null))
            || schema["anyOf"].as_array().is_some_and(|list| list.iter().any(|schema| is_null(&schema["type"])))
    }

    fn fits(&self, node: &Node, schema: &'s Json) -> bool {
        let types = self.types(schema);
        types.is_empty()
            || types.iter().any(|name| match (&node.value, *name) {
                (Value::Bool(_), "boolean")
                | (Value::Text(_) | Value::Datetime(_), "string")
                | (Value::Integer(_) | Value::Float(_), "number")
                | (Value::Array(_), "array")
                | (Value::Table(_), "object") => true,
                (_, "integer") => node.integer().is_some(),
                _ => false,
            })
    }

    /// The keys of a table that could be here.
    fn keys(&self, schema: &'s Json) -> Option<Vec<&'s str>> {
        let schema = self.resolve(schema);
        let own = schema.get("properties").and_then(Json::as_object).map(|known| known.keys().map(String::as_str).collect());
        own.or_else(|| self.alternatives(schema)?.into_iter().find_map(|schema| self.keys(schema)))
    }

    fn check(&self, node: &Node, schema: &'s Json, problems: &mut Vec<Problem>) {
        let schema = self.resolve(schema);
        if matches!(node.value, Value::Null) && self.may_be_null(schema) {
            return;
        }
        if !self.fits(node, schema) {
            let mut expected: Vec<&str> = self.types(schema).into_iter().map(kind).collect();
            expected.dedup();
            let problem = Problem::at(node.span.clone(), format!("expected {}, found {}", expected.join(" or "), node.kind()));
            problems.push(match self.keys(schema) {
                Some(keys) => problem.hint(format!("a table has {}", quoted(&keys))),
                None => problem,
            });
            return;
        }
        if let (Some(choices), Value::Text(text)) = (self.choices(schema), &node.value) {
            if !choices.contains(&text.as_str()) {
                let problem = Problem::at(node.span.clone(), format!("`{text}` is none of {}", quoted(&choices)));
                problems.push(match nearest(text, choices.iter().copied()) {
                    Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
                    None => problem,
                });
            }
            return;
        }
        if let Some(alternatives) = self.alternatives(schema) {
            let tried = alternatives.into_iter().filter(|schema| self.fits(node, schema)).map(|schema| {
                let mut found = Vec::new();
                self.check(node, schema, &mut found);
                found
            });
            // The one that was meant is the one with which the least is wrong.
            problems.extend(tried.min_by_key(Vec::len).unwrap_or_default());
            return;
        }
        match &node.value {
            Value::Table(_) => self.table(node, schema, problems),
            Value::Array(items) => {
                if let Some(item) = schema.get("items") {
                    items.iter().for_each(|node| self.check(node, item, problems));
                }
            }
            Value::Integer(_) | Value::Float(_) => range(node, schema, problems),
            Value::Null | Value::Bool(_) | Value::Text(_) | Value::Datetime(_) => {}
        }
    }

    fn table(&self, node: &Node, schema: &'s Json, problems: &mut Vec<Problem>) {
        let Value::Table(entries) = &node.value else { return };
        let known = schema["properties"].as_object();
        // Probably there, under a misspelt name.
        let mut meant = Vec::new();
        for (key, value) in entries {
            match (known.and_then(|known| known.get(&key.name)), schema.get("additionalProperties")) {
                (Some(schema), _) => self.check(value, schema, problems),
                (None, Some(Json::Bool(false))) => {
                    let names = || known.into_iter().flat_map(|known| known.keys().map(String::as_str));
                    let near = nearest(&key.name, names());
                    meant.extend(near);
                    let hint = near.map_or_else(
                        || format!("known here: {}", names().collect::<Vec<_>>().join(", ")),
                        |near| format!("did you mean `{near}`?"),
                    );
                    problems.push(Problem::at(key.span.clone(), format!("unknown field `{}`", key.name)).hint(hint));
                }
                (None, Some(schema)) => self.check(value, schema, problems),
                (None, None) => {}
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            if !entries.iter().any(|(key, _)| key.name == name) && !meant.contains(&name) {
                problems.push(Problem::at(node.span.clone(), format!("missing field `{name}`")));
            }
        }
    }
}

/// Bounds of a whole number: its own, and those of the type that it is read into.
fn range(node: &Node, schema: &Json, problems: &mut Vec<Problem>) {
    let Some(number) = node.integer() else { return };
    let most = match schema["format"].as_str() {
        Some("uint8") => u8::MAX.into(),
        Some("uint16") => u16::MAX.into(),
        Some("uint32") => u32::MAX.into(),
        _ => i64::MAX,
    };
    let least = schema["minimum"].as_i64().unwrap_or(i64::MIN);
    let most = schema["maximum"].as_i64().unwrap_or(most);
    if !(least..=most).contains(&number) {
        let bounds = match most {
            i64::MAX => format!("{least} or more"),
            most => format!("from {least} to {most}"),
        };
        problems.push(Problem::at(node.span.clone(), format!("expected a number {bounds}, found {number}")));
    }
}

/// A JSON type, for people.
fn kind(name: &str) -> &str {
    match name {
        "boolean" => "true or false",
        "integer" => "an integer",
        "number" => "a number",
        "string" => "a string",
        "array" => "an array",
        "object" => "a table",
        other => other,
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// The name that was probably meant.
pub fn nearest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let (distance, name) = names.map(|name| (edits(given, name), name)).min()?;
    (distance <= 2.max(given.len() / 3)).then_some(name)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let up = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(up + 1).min(row[j] + 1);
            diagonal = up;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let schema = json!({
            "$defs": { "Mode": { "oneOf": [{ "const": "fast" }, { "const": "safe", "description": "slow" }] } },
            "type": "object",
            "properties": {
                "port": { "type": ["integer", "null"], "format": "uint16", "minimum": 0 },
                "mode": { "anyOf": [{ "$ref": "#/$defs/Mode" }, { "type": "null" }] },
                "names": { "type": "array", "items": { "type": "string" } },
                "acl": { "anyOf": [
                    { "type": "string" },
                    { "type": "object", "properties": { "file": { "type": "string" } }, "required": ["file"], "additionalProperties": false },
                ] },
                "any": { "type": "object", "additionalProperties": { "type": "boolean" } },
            },
            "additionalProperties": false,
        });
        let node = Node::parse(text, Path::new("a.toml"), 0).expect("parses");
        check(&node, &schema)
            .into_iter()
            .map(|problem| format!("{}: {} ({})", problem.span.expect("a place").start, problem.message, problem.hint.unwrap_or_default()))
            .collect()
    }

    #[test]
    fn what_is_right() {
        assert!(faults("port = 80\nmode = \"fast\"\nnames = [\"a\"]\nacl = \"x\"\n[any]\na = true\n").is_empty());
        assert!(faults("port = 80.0\nacl = { file = \"x\" }\n").is_empty());
        assert!(faults("{\"port\": 80, \"acl\": {\"file\": \"x\"}}").is_empty());
    }

    #[test]
    fn every_fault_with_its_place() {
        assert_eq!(
            faults("prot = 1\nport = 70000\nmode = \"saef\"\nnames = [1, \"a\", true]\nacl = { fil = \"x\" }\n[any]\na = 1\n"),
            [
                "0: unknown field `prot` (did you mean `port`?)",
                "16: expected a number from 0 to 65535, found 70000 ()",
                "29: `saef` is none of \"fast\", \"safe\" (did you mean \"safe\"?)",
                "45: expected a string, found an integer ()",
                "53: expected a string, found a boolean ()",
                "67: unknown field `fil` (did you mean `file`?)",
                "89: expected true or false, found an integer ()",
            ]
        );
        assert_eq!(
            faults("acl = 7\nport = 1.5\n"),
            ["6: expected a string or a table, found an integer (a table has \"file\")", "15: expected an integer, found a number ()"]
        );
    }
}
