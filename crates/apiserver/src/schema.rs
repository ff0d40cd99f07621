//! Structural schemas: what a kind's objects may look like.
//!
//! One small walker instead of a JSON Schema library, because the answers must be Kubernetes' own: unknown fields are
//! dropped and reported rather than refused, defaults are filled in, and an error names the field as kubectl shows it.
//!
//! Source: apiextensions-apiserver, structural schemas (types, nullable, `x-kubernetes-*`); messages as its validation gives
//! them. `$ref` is resolved while the schema is compiled, so recursive types cannot be expressed; no kind served here has any.
//! Next: `schema/walk.rs` prunes and defaults, `schema/check.rs` validates.

mod check;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

use crate::expression::Rule;

/// JSON types as schemas name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// How strategic merge patch merges a list instead of replacing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MergeList {
    ByKey(String),
    Set,
}

/// A compiled schema.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the schema language"
)]
pub(crate) struct Schema {
    pub(crate) kind: Option<Type>,
    pub(crate) nullable: bool,
    pub(crate) properties: BTreeMap<String, Self>,
    /// Schema of the values of a map.
    pub(crate) additional: Option<Box<Self>>,
    pub(crate) items: Option<Box<Self>>,
    pub(crate) default: Option<Value>,
    /// `x-kubernetes-preserve-unknown-fields`, or `additionalProperties: true`.
    pub(crate) preserve_unknown: bool,
    pub(crate) int_or_string: bool,
    required: Vec<String>,
    choices: Vec<Value>,
    pattern: Option<Regex>,
    format: Option<String>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_minimum: bool,
    exclusive_maximum: bool,
    multiple_of: Option<f64>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    min_properties: Option<u64>,
    max_properties: Option<u64>,
    unique_items: bool,
    /// `x-kubernetes-list-type: map`: the fields that tell items apart.
    pub(crate) list_map_keys: Vec<String>,
    list_set: bool,
    /// `x-kubernetes-patch-strategy: merge` on a list; items are told apart by this field, or are plain values.
    pub(crate) merge: Option<MergeList>,
    all_of: Vec<Self>,
    any_of: Vec<Self>,
    one_of: Vec<Self>,
    not: Option<Box<Self>>,
    /// `x-kubernetes-validations`.
    pub(crate) rules: Vec<Arc<Rule>>,
    /// There are rules here or below.
    pub(crate) has_rules: bool,
}

/// A schema that cannot be served, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub(crate) struct SchemaError {
    pub(crate) field: String,
    pub(crate) detail: String,
}

/// Deeper than any real schema; a `$ref` that leads to itself ends here.
const DEEPEST: usize = 64;

impl Schema {
    /// Compiles `schema`; `$ref`s name keys of `definitions` by their last path segment.
    pub(crate) fn compile(
        schema: &Value,
        definitions: &Map<String, Value>,
    ) -> Result<Self, SchemaError> {
        compile(schema, definitions, &mut Vec::new())
    }
}

fn compile(
    schema: &Value,
    definitions: &Map<String, Value>,
    path: &mut Vec<String>,
) -> Result<Schema, SchemaError> {
    if path.len() > DEEPEST {
        return Err(bad(path, "nested too deeply (is it recursive?)".into()));
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let name = target.rsplit('/').next().unwrap_or_default();
        let definition = definitions
            .get(name)
            .ok_or_else(|| bad(path, format!("unknown $ref {target:?}")))?;
        return compile(definition, definitions, path);
    }
    let mut compiled = facets(schema);
    if let Some(word) = schema.get("type").and_then(Value::as_str) {
        let kind = Type::parse(word).ok_or_else(|| bad(path, format!("unknown type {word:?}")))?;
        compiled.kind = Some(kind);
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        let regex = Regex::new(pattern).map_err(|error| bad(path, format!("pattern: {error}")))?;
        compiled.pattern = Some(regex);
    }
    let mut child = |step: String, schema: &Value| {
        path.push(step);
        let compiled = compile(schema, definitions, path);
        path.pop();
        compiled
    };
    for (name, property) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let property = child(format!("properties[{name}]"), property)?;
        compiled.properties.insert(name.clone(), property);
    }
    match schema.get("additionalProperties") {
        Some(Value::Bool(true)) => compiled.preserve_unknown = true,
        Some(value @ Value::Object(_)) => {
            compiled.additional = Some(Box::new(child("additionalProperties".into(), value)?));
        }
        _ => {}
    }
    if let Some(items) = schema.get("items") {
        compiled.items = Some(Box::new(child("items".into(), items)?));
    }
    for (field, into) in [
        ("allOf", &mut compiled.all_of),
        ("anyOf", &mut compiled.any_of),
        ("oneOf", &mut compiled.one_of),
    ] {
        for (n, schema) in array(schema, field).iter().enumerate() {
            into.push(child(format!("{field}[{n}]"), schema)?);
        }
    }
    if let Some(not) = schema.get("not") {
        compiled.not = Some(Box::new(child("not".into(), not)?));
    }
    for (n, rule) in array(schema, "x-kubernetes-validations").iter().enumerate() {
        let rule = Rule::parse(rule).map_err(|detail| {
            path.push(format!("x-kubernetes-validations[{n}]"));
            bad(path, detail)
        })?;
        compiled.rules.push(Arc::new(rule));
    }
    compiled.has_rules = !compiled.rules.is_empty()
        || compiled.properties.values().any(|below| below.has_rules)
        || [&compiled.additional, &compiled.items]
            .into_iter()
            .flatten()
            .any(|below| below.has_rules);
    Ok(compiled)
}

fn bad(path: &[String], detail: String) -> SchemaError {
    SchemaError {
        field: path.join("."),
        detail,
    }
}

fn array<'a>(schema: &'a Value, field: &str) -> &'a [Value] {
    schema
        .get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// What a schema says about its own value, without the schemas inside it.
fn facets(schema: &Value) -> Schema {
    let text = |field: &str| schema.get(field).and_then(Value::as_str);
    let flag = |field: &str| schema.get(field).and_then(Value::as_bool).unwrap_or(false);
    let count = |field: &str| schema.get(field).and_then(Value::as_u64);
    let number = |field: &str| schema.get(field).and_then(Value::as_f64);
    let words = |field: &str| {
        array(schema, field)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let list_type = text("x-kubernetes-list-type");
    let is_map = list_type == Some("map");
    Schema {
        nullable: flag("nullable"),
        default: schema.get("default").cloned(),
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        required: words("required"),
        choices: array(schema, "enum").to_vec(),
        format: text("format").map(str::to_owned),
        minimum: number("minimum"),
        maximum: number("maximum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        unique_items: flag("uniqueItems"),
        list_map_keys: if is_map {
            words("x-kubernetes-list-map-keys")
        } else {
            Vec::new()
        },
        list_set: list_type == Some("set"),
        merge: (text("x-kubernetes-patch-strategy") == Some("merge")).then(|| {
            let key = text("x-kubernetes-patch-merge-key").map(str::to_owned);
            key.map_or(MergeList::Set, MergeList::ByKey)
        }),
        ..Schema::default()
    }
}

/// `spec` + `ports` = `spec.ports`.
pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

#[cfg(test)]
mod tests;
