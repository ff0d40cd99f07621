//! From a view to text. Commands never print; they return a view and this renders it.

use std::str::FromStr;

use serde::Serialize;

use crate::timestamp::Timestamp;

/// How a view is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// Indented JSON.
    Json,
    /// YAML.
    Yaml,
}

impl FromStr for Format {
    type Err = RenderError;

    fn from_str(text: &str) -> Result<Self, RenderError> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            other => Err(RenderError::UnknownFormat(other.to_owned())),
        }
    }
}

/// Why a view was not written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// Not one of the three formats.
    #[error("output format `{0}` is none of table, json, yaml")]
    UnknownFormat(String),
    /// Not expressible as JSON.
    #[error("writing JSON")]
    Json(#[from] serde_json::Error),
    /// Not expressible as YAML.
    #[error("writing YAML")]
    Yaml(#[from] serde_norway::Error),
}

impl RenderError {
    /// The closed word for the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownFormat(_) => "UnknownFormat",
            Self::Json(_) | Self::Yaml(_) => "NotWritable",
        }
    }
}

/// A view that people can read.
pub trait Render: Serialize {
    /// Text for people, ending with a newline; ages are counted up to `now`.
    fn table(&self, now: Timestamp) -> String;

    /// The view in the given format, ending with a newline.
    ///
    /// # Errors
    /// [`RenderError`] if the view does not serialise.
    fn render(&self, format: Format, now: Timestamp) -> Result<String, RenderError> {
        Ok(match format {
            Format::Table => self.table(now),
            Format::Json => serde_json::to_string_pretty(self)? + "\n",
            Format::Yaml => serde_norway::to_string(self)?,
        })
    }
}
