//! A configuration file as a tree of values, each with its place in the text. TOML and JSON give the same
//! tree, so that all that follows is the same for both.

use std::ops::Range;
use std::path::Path;

use jsonc_parser::ast;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, ParseOptions};
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_spanned::de::{SpannedDeserializer, is_spanned};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Problem;

/// A value and where it is.
#[derive(Clone, Debug)]
pub struct Node {
    /// Bytes of the text.
    pub span: Range<usize>,
    /// What is there.
    pub value: Value,
}

/// What a document is made of.
#[derive(Clone, Debug)]
pub enum Value {
    /// JSON's `null`.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction, or written like one.
    Float(f64),
    /// Text.
    Text(String),
    /// TOML's dates and times, as written.
    Datetime(String),
    /// A list.
    Array(Vec<Node>),
    /// Keys and values, in the document's order.
    Table(Vec<(Key, Node)>),
}

/// The name of a table's entry.
#[derive(Clone, Debug)]
pub struct Key {
    /// Bytes of the text.
    pub span: Range<usize>,
    /// The name.
    pub name: String,
}

impl Node {
    /// Reads a document: JSON when `file` is called so or the text begins with a brace, TOML otherwise. All faults
    /// of its syntax.
    /// Its places begin at `base` (see [`Sources`](super::diagnostics::Sources)).
    pub fn parse(text: &str, file: &Path, base: usize) -> Result<Self, Vec<Problem>> {
        let is_json = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let shift = |span: Range<usize>| span.start + base..span.end + base;
        match if is_json || text.trim_start().starts_with('{') { json(text) } else { toml(text) } {
            Ok(mut node) => {
                if base > 0 {
                    node.each_span(&mut |span| *span = shift(span.clone()));
                }
                Ok(node)
            }
            Err(mut problems) => {
                problems.iter_mut().for_each(|problem| problem.span = problem.span.take().map(shift));
                Err(problems)
            }
        }
    }

    fn each_span(&mut self, change: &mut impl FnMut(&mut Range<usize>)) {
        change(&mut self.span);
        match &mut self.value {
            Value::Array(items) => items.iter_mut().for_each(|item| item.each_span(change)),
            Value::Table(entries) => entries.iter_mut().for_each(|(key, node)| {
                change(&mut key.span);
                node.each_span(change);
            }),
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) | Value::Datetime(_) => {}
        }
    }

    /// Puts `other` over this: tables entry by entry, anything else as a whole.
    pub fn merge(&mut self, other: Node) {
        match (&mut self.value, other.value) {
            (Value::Table(entries), Value::Table(others)) => {
                for (key, node) in others {
                    match entries.iter_mut().find(|(known, _)| known.name == key.name) {
                        Some((_, known)) => known.merge(node),
                        None => entries.push((key, node)),
                    }
                }
            }
            (value, other_value) => {
                *value = other_value;
                self.span = other.span;
            }
        }
    }

    /// What kind of value it is, for people.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    /// A table's entry.
    pub fn get(&self, name: &str) -> Option<&Node> {
        let Value::Table(entries) = &self.value else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// The number, when it is a whole one: also one that is written `3.0`, as some generators of TOML do.
    pub fn integer(&self) -> Option<i64> {
        const EXACT: f64 = (1_i64 << 53) as f64;
        match self.value {
            Value::Integer(number) => Some(number),
            Value::Float(number) if number.fract() == 0.0 && number.abs() <= EXACT => Some(number as i64),
            _ => None,
        }
    }

    /// The value as a type of ours.
    pub fn read<'de, T: de::Deserialize<'de>>(&'de self) -> Result<T, Problem> {
        T::deserialize(self).map_err(|fault| Problem::at(fault.span.unwrap_or(self.span.clone()), fault.message))
    }
}

fn toml(text: &str) -> Result<Node, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let problem = |error: &toml::de::Error| Problem { span: error.span(), message: error.message().to_owned(), hint: None };
        return Err(errors.iter().map(problem).collect());
    }
    let mut problems = Vec::new();
    let span = table.span();
    let node = Node { span, value: toml_table(table.into_inner(), &mut problems) };
    if problems.is_empty() { Ok(node) } else { Err(problems) }
}

fn toml_table(table: DeTable<'_>, problems: &mut Vec<Problem>) -> Value {
    let mut entries: Vec<(Key, Node)> = table
        .into_iter()
        .map(|(key, value)| (Key { span: key.span(), name: key.into_inner().into_owned() }, toml_value(value, problems)))
        .collect();
    entries.sort_by_key(|(key, _)| key.span.start);
    Value::Table(entries)
}

fn toml_value(value: Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Node {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                problems.push(Problem::at(span.clone(), "this number is too large"));
                Value::Null
            }
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => {
                problems.push(Problem::at(span.clone(), "this is no number"));
                Value::Null
            }
        },
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(date) => Value::Datetime(date.to_string()),
        DeValue::Array(items) => Value::Array(items.into_iter().map(|item| toml_value(item, problems)).collect()),
        DeValue::Table(table) => toml_table(table, problems),
    };
    Node { span, value }
}

fn json(text: &str) -> Result<Node, Vec<Problem>> {
    let strict = ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_extended_string_escapes: false,
        allow_non_finite_numbers: false,
    };
    let parsed = jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &strict)
        .map_err(|error| vec![Problem::at(error.range().start..error.range().end, error.kind().to_string())])?;
    let value = parsed.value.ok_or_else(|| vec![Problem::at(0..0, "there is nothing in this file")])?;
    let mut problems = Vec::new();
    let node = json_value(&value, &mut problems);
    if problems.is_empty() { Ok(node) } else { Err(problems) }
}

fn json_value(value: &ast::Value<'_>, problems: &mut Vec<Problem>) -> Node {
    let range = value.range();
    let span = range.start..range.end;
    let value = match value {
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::BooleanLit(value) => Value::Bool(value.value),
        ast::Value::StringLit(text) => Value::Text(text.value.clone().into_owned()),
        ast::Value::NumberLit(number) => match (number.value.parse(), number.value.parse()) {
            (Ok(number), _) => Value::Integer(number),
            (Err(_), Ok(number)) => Value::Float(number),
            (Err(_), Err(_)) => {
                problems.push(Problem::at(span.clone(), "this is no number"));
                Value::Null
            }
        },
        ast::Value::Array(items) => Value::Array(items.elements.iter().map(|item| json_value(item, problems)).collect()),
        ast::Value::Object(object) => {
            let mut entries: Vec<(Key, Node)> = Vec::with_capacity(object.properties.len());
            for property in &object.properties {
                let name = property.name.as_str().to_owned();
                let range = property.name.range();
                let span = range.start..range.end;
                if entries.iter().any(|(key, _)| key.name == name) {
                    problems.push(Problem::at(span, format!("`{name}` is there twice")));
                    continue;
                }
                entries.push((Key { span, name }, json_value(&property.value, problems)));
            }
            Value::Table(entries)
        }
    };
    Node { span, value }
}

/// Why a value is not what it should be.
#[derive(Debug)]
pub struct Fault {
    message: String,
    span: Option<Range<usize>>,
}

impl Fault {
    fn at(mut self, span: &Range<usize>) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), span: None }
    }
}

macro_rules! whole_numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.integer() {
                Some(number) => visitor.visit_i64(number).map_err(|fault: Fault| fault.at(&self.span)),
                None => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let read = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) | Value::Datetime(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => visitor.visit_seq(Items(items.iter())),
            Value::Table(entries) => visitor.visit_map(Entries { rest: entries.iter(), value: None }),
        };
        read.map_err(|fault: Fault| fault.at(&self.span))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(self, name: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        if is_spanned(name) {
            return visitor.visit_map(SpannedDeserializer::<&'de Node, Fault>::new(self, self.span.clone()));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        let read = match &self.value {
            Value::Text(name) => visitor.visit_enum(Variant { name, content: None }),
            Value::Table(entries) if entries.len() == 1 => {
                visitor.visit_enum(Variant { name: &entries[0].0.name, content: Some(&entries[0].1) })
            }
            _ => return self.deserialize_any(visitor),
        };
        read.map_err(|fault: Fault| fault.at(&self.span))
    }

    whole_numbers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);

    forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Fault> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Items<'de>(std::slice::Iter<'de, Node>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.0.next().map(|item| seed.deserialize(item).map_err(|fault| fault.at(&item.span))).transpose()
    }
}

struct Entries<'de> {
    rest: std::slice::Iter<'de, (Key, Node)>,
    value: Option<(&'de Key, &'de Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key, value));
        seed.deserialize(KeyText(key)).map(Some).map_err(|fault| fault.at(&key.span))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (_, value) = self.value.take().ok_or_else(|| de::Error::custom("a value without its key"))?;
        seed.deserialize(value).map_err(|fault| fault.at(&value.span))
    }
}

/// A key to be read as text, with its place if that is asked for.
struct KeyText<'de>(&'de Key);

impl<'de> de::Deserializer<'de> for KeyText<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(&self.0.name)
    }

    fn deserialize_struct<V: Visitor<'de>>(self, name: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        if is_spanned(name) {
            return visitor.visit_map(SpannedDeserializer::<&'de str, Fault>::new(&self.0.name, self.0.span.clone()));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

struct Variant<'de> {
    name: &'de str,
    content: Option<&'de Node>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name: StrDeserializer<'_, Fault> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            None => Ok(()),
            Some(_) => Err(de::Error::custom(format!("`{}` stands by itself", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self.content()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        de::Deserializer::deserialize_any(self.content()?, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        de::Deserializer::deserialize_any(self.content()?, visitor)
    }
}

impl<'de> Variant<'de> {
    fn content(&self) -> Result<&'de Node, Fault> {
        self.content.ok_or_else(|| de::Error::custom(format!("`{}` needs a value", self.name)))
    }
}
