//! `metav1.Table`: what `kubectl get` prints.
//!
//! The server lays out the columns and kubectl prints them, so users see here what they know from any cluster.
//! Next: `table/columns.rs` has the columns of the built-in kinds.

mod columns;

use serde_json::{Value, json};
use time::OffsetDateTime;

pub(crate) use self::columns::columns_of;
use crate::jsonpath::JsonPath;
use crate::object;

/// What part of each object a table carries with its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// How a cell comes from an object.
#[derive(Debug, Clone)]
enum Cell {
    Path { path: JsonPath, is_date: bool },
    Made(fn(&Value, OffsetDateTime) -> Value),
}

/// One column.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    /// 0 is always shown, more only with `-o wide`.
    priority: i64,
    cell: Cell,
}

pub(crate) fn name_column() -> Column {
    Column {
        format: "name".into(),
        ..made("Name", 0, |object, _| json!(object::name(object)))
    }
}

pub(crate) fn age_column() -> Column {
    made("Age", 0, |object, now| {
        json!(age(object::meta(object, "creationTimestamp"), now))
    })
}

fn made(name: &str, priority: i64, cell: fn(&Value, OffsetDateTime) -> Value) -> Column {
    Column {
        name: name.into(),
        kind: "string".into(),
        format: String::new(),
        description: String::new(),
        priority,
        cell: Cell::Made(cell),
    }
}

/// An entry of `additionalPrinterColumns`.
pub(crate) fn parse_column(column: &Value) -> Result<Column, String> {
    let text = |field: &str| {
        column
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (name, kind) = (text("name"), text("type"));
    if name.is_empty() {
        return Err("name must be given".into());
    }
    if !["integer", "number", "string", "boolean", "date"].contains(&kind.as_str()) {
        return Err(format!(
            "type {kind:?} must be one of integer, number, string, boolean, date"
        ));
    }
    let path = JsonPath::parse(&text("jsonPath")).map_err(|error| format!("jsonPath: {error}"))?;
    Ok(Column {
        name,
        format: text("format"),
        description: text("description"),
        priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
        cell: Cell::Path {
            path,
            is_date: kind == "date",
        },
        kind,
    })
}

impl Column {
    fn definition(&self) -> Value {
        json!({ "name": self.name, "type": self.kind, "format": self.format,
            "description": self.description, "priority": self.priority })
    }

    fn cell(&self, object: &Value, now: OffsetDateTime) -> Value {
        match &self.cell {
            Cell::Made(make) => make(object, now),
            Cell::Path { path, is_date } => match path.find(object).as_slice() {
                [] => Value::Null,
                [Value::String(text)] if *is_date => json!(age(text, now)),
                [Value::Array(items)] => json!(serde_json::to_string(items).unwrap_or_default()),
                [Value::Object(fields)] => json!(serde_json::to_string(fields).unwrap_or_default()),
                [Value::String(text)] if self.kind != "string" => typed(text, &self.kind),
                [value @ (Value::Bool(_) | Value::Number(_))] if self.kind == "string" => {
                    json!(value.to_string())
                }
                [one] => (*one).clone(),
                // Kubernetes shows the first of several.
                [first, ..] => (*first).clone(),
            },
        }
    }
}

fn typed(text: &str, kind: &str) -> Value {
    match kind {
        "integer" => text.parse::<i64>().map_or(Value::Null, Value::from),
        "number" => text.parse::<f64>().map_or(Value::Null, Value::from),
        "boolean" => text.parse::<bool>().map_or(Value::Null, Value::from),
        _ => json!(text),
    }
}

/// A table of `objects`; `definitions` says whether the columns are described (in a watch, only the first time).
pub(crate) fn table(
    columns: &[Column],
    objects: &[Value],
    metadata: &Value,
    include: Include,
    definitions: bool,
    now: OffsetDateTime,
) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = columns
                .iter()
                .map(|column| column.cell(object, now))
                .collect();
            let mut row = json!({ "cells": cells });
            match include {
                Include::None => {}
                Include::Metadata => row["object"] = partial(object),
                Include::Object => row["object"] = object.clone(),
            }
            row
        })
        .collect();
    let columns: Vec<Value> = if definitions {
        columns.iter().map(Column::definition).collect()
    } else {
        Vec::new()
    };
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows })
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

/// How long ago an RFC 3339 time was, as Kubernetes writes it: two units at most, fewer the longer it is.
fn age(timestamp: &str, now: OffsetDateTime) -> String {
    match OffsetDateTime::parse(timestamp, &time::format_description::well_known::Rfc3339) {
        Ok(then) => human((now - then).whole_seconds()),
        Err(_) => "<unknown>".to_owned(),
    }
}

fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        // A clock that is ahead of ours by a moment is no reason to confuse people.
        ..-1 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if hours < 3 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, 'd', hours % 24, 'h'),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests;
