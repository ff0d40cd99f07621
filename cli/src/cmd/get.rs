//! `fairlead get`.

use std::fmt::Write as _;

use fairlead_observe::{Format, Render as _, Timestamp};
use serde_json::{Value, json};

use super::{Asked, Output};
use crate::error::CliError;
use crate::objects::manifest::text;
use crate::objects::{Objects, TABLE};

/// Options of `fairlead get`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kind: plural, singular or short name, several with commas between them; for example services, svc, ippools
    kind: String,
    /// One object of that name; all without it
    name: Option<String>,
    #[command(flatten)]
    pub place: Asked,
    /// Objects of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,
    /// Only objects with such labels, as in app=web,tier!=back
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "name")]
    selector: Option<String>,
    /// With the columns that are usually left out
    #[arg(short, long)]
    wide: bool,
}

/// Reads and prints.
///
/// # Errors
/// [`CliError`].
///
/// # Cancel safety
/// Nothing is changed.
pub async fn run(
    objects: &Objects,
    args: &Args,
    format: Format,
    now: Timestamp,
) -> Result<Output, CliError> {
    let mut parts = Vec::new();
    for word in args.kind.split(',') {
        let kind = objects.kind(word)?;
        let namespace = (!args.all_namespaces).then_some(args.place.namespace.as_str());
        let mut path = kind.path(namespace);
        match (&args.name, &args.selector) {
            (Some(name), _) => {
                path.push('/');
                path.push_str(&escaped(name));
            }
            (None, Some(selector)) => {
                path.push_str("?labelSelector=");
                path.push_str(&escaped(selector));
            }
            (None, None) => {}
        }
        let accept = if format == Format::Table {
            TABLE
        } else {
            "application/json"
        };
        parts.push((kind, objects.read(&path, accept).await?));
    }
    let text = if format == Format::Table {
        let many = parts.len() > 1;
        let tables = parts.iter().map(|(kind, answer)| {
            let prefix = if many {
                format!("{}/", kind.title())
            } else {
                String::new()
            };
            table(
                answer,
                args,
                kind.namespaced && args.all_namespaces,
                &prefix,
            )
        });
        tables.collect::<Vec<_>>().join("\n")
    } else {
        let mut answers: Vec<Value> = parts.into_iter().map(|(_, answer)| answer).collect();
        let whole = if answers.len() == 1 {
            answers.remove(0)
        } else {
            let lists = answers
                .iter_mut()
                .filter_map(|answer| answer["items"].as_array_mut());
            let items: Vec<Value> = lists.flat_map(std::mem::take).collect();
            json!({ "apiVersion": "v1", "kind": "List", "items": items })
        };
        Document(whole).render(format, now)?
    };
    Ok(Output {
        text,
        exit_code: 0,
        is_error: false,
    })
}

/// An answer that is written as it came.
#[derive(serde::Serialize)]
#[serde(transparent)]
struct Document(Value);

impl fairlead_observe::Render for Document {
    fn table(&self, _now: Timestamp) -> String {
        format!("{}\n", self.0)
    }
}

/// A `metav1.Table`, laid out as kubectl does: three spaces between columns.
fn table(answer: &Value, args: &Args, with_namespace: bool, prefix: &str) -> String {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let columns = list(answer, "columnDefinitions");
    let shown: Vec<usize> = (0..columns.len())
        .filter(|&n| args.wide || columns[n]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut heading: Vec<String> = shown
        .iter()
        .map(|&n| text(&columns[n], "/name").to_uppercase())
        .collect();
    if with_namespace {
        heading.insert(0, "NAMESPACE".into());
    }
    let mut rows = vec![heading];
    for row in list(answer, "rows") {
        let cells = list(&row, "cells");
        let mut line: Vec<String> = shown.iter().map(|&n| cell(cells.get(n))).collect();
        if let Some(first) = line.first_mut() {
            first.insert_str(0, prefix);
        }
        if with_namespace {
            line.insert(0, text(&row, "/object/metadata/namespace").to_owned());
        }
        rows.push(line);
    }
    if rows.len() == 1 {
        return "there are none\n".to_owned();
    }
    let width = |n: usize| {
        rows.iter()
            .map(|row| row[n].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}   ").expect("writing to a String cannot fail");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        // One row is one line.
        Some(Value::String(text)) => text.replace('\n', "\\n"),
        Some(other) => other.to_string(),
    }
}

/// Percent-encoded, but for what a path and a query hold as it is (RFC 3986 section 2.3).
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
        out
    })
}
