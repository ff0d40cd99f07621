//! Reading bodies in Kubernetes' protobuf encoding, which client-go and kubectl send for the built-in kinds.
//!
//! A body is the four bytes `k8s NUL` and a `runtime.Unknown` that wraps the object. Names come from a table of field
//! numbers (`protobuf/fields.txt`), types from the same schemas that check the object afterwards. Answers stay JSON, which
//! every such client accepts.
//!
//! Source: apimachinery `runtime/serializer/protobuf`; protobuf encoding (protobuf.dev/programming-guides/encoding).

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

const MAGIC: &[u8] = b"k8s\0";
const TABLE: &str = include_str!("protobuf/fields.txt");
/// Deeper than any real object; below it a body cannot exhaust the stack.
const DEEPEST: usize = 32;

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    #[error("the body does not begin as Kubernetes' protobuf does")]
    Magic,
    #[error("the body ends within a field")]
    Truncated,
    #[error("field {number} has the unknown wire type {wire}")]
    WireType { number: u64, wire: u64 },
    #[error("{field} has the wrong wire type")]
    Mismatch { field: String },
    #[error("{field} is not valid UTF-8")]
    Text { field: String },
    #[error("{field} is no point in time")]
    Time { field: String },
    #[error("nested too deeply")]
    Depth,
    #[error("{definition} has no protobuf form here; send JSON")]
    Unknown { definition: String },
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name: &'static str,
    /// Zero is a value.
    keeps_zero: bool,
}

/// Decodes objects of the built-in kinds.
#[derive(Debug)]
pub(crate) struct Protobuf {
    messages: HashMap<&'static str, HashMap<u64, Field>>,
}

impl Protobuf {
    pub(crate) fn new() -> Self {
        let field = |word: &'static str| -> Option<(u64, Field)> {
            let (number, name) = word.split_once(':')?;
            let keeps_zero = name.ends_with('!');
            let name = name.trim_end_matches('!');
            Some((number.parse().ok()?, Field { name, keeps_zero }))
        };
        let message = |line: &'static str| {
            let (name, fields) = line.split_once(' ')?;
            Some((name, fields.split(' ').filter_map(field).collect()))
        };
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        Self {
            messages: lines.filter_map(message).collect(),
        }
    }

    /// The object in `body`, whose type is the definition of that name.
    pub(crate) fn decode(
        &self,
        body: &[u8],
        definition: &str,
        definitions: &Map<String, Value>,
    ) -> Result<Value, ProtobufError> {
        let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
        let (mut kind, mut raw): (&[u8], &[u8]) = (&[], &[]);
        for part in Fields(envelope) {
            match part? {
                (1, Wire::Bytes(bytes)) => kind = bytes,
                (2, Wire::Bytes(bytes)) => raw = bytes,
                _ => {}
            }
        }
        let mut object = Reader {
            messages: &self.messages,
            definitions,
        }
        .message(definition, raw, 0)?;
        for part in Fields(kind) {
            if let (number @ (1 | 2), Wire::Bytes(bytes)) = part? {
                let name = if number == 1 { "apiVersion" } else { "kind" };
                let word = text(bytes, name)?;
                if !word.is_empty() {
                    object[name] = json!(word);
                }
            }
        }
        Ok(object)
    }
}

/// A field as it lies in the bytes.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Fixed-width numbers, which no kind uses.
    Other,
}

/// The fields of a message, in the order sent.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Truncated)
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], ProtobufError> {
        let n = usize::try_from(n).map_err(|_too_long| ProtobufError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(n).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Wire<'a>), ProtobufError> {
        let tag = self.varint()?;
        let number = tag >> 3;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => self.take(8).map(|_| Wire::Other)?,
            2 => {
                let n = self.varint()?;
                Wire::Bytes(self.take(n)?)
            }
            5 => self.take(4).map(|_| Wire::Other)?,
            wire => return Err(ProtobufError::WireType { number, wire }),
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn text(bytes: &[u8], field: &str) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_not_utf8| ProtobufError::Text {
        field: field.to_owned(),
    })
}

fn mismatch(field: &str) -> ProtobufError {
    ProtobufError::Mismatch {
        field: field.to_owned(),
    }
}

/// Follows the schemas through the bytes.
struct Reader<'r> {
    messages: &'r HashMap<&'static str, HashMap<u64, Field>>,
    definitions: &'r Map<String, Value>,
}

impl Reader<'_> {
    fn message(&self, name: &str, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
        if depth > DEEPEST {
            return Err(ProtobufError::Depth);
        }
        let known = self
            .messages
            .get(name)
            .ok_or_else(|| ProtobufError::Unknown {
                definition: name.to_owned(),
            })?;
        let mut fields = Map::new();
        for part in Fields(bytes) {
            let (number, wire) = part?;
            // Fields newer than this program are ignored, as with Kubernetes' own decoders.
            let field = known.get(&number);
            let described = |field: &&Field| {
                let schema = self
                    .definitions
                    .get(name)?
                    .pointer(&format!("/properties/{}", field.name))?;
                Some((**field, schema))
            };
            let Some((field, schema)) = field.as_ref().and_then(described) else {
                continue;
            };
            let sent = self.value(schema, wire, field.name, depth)?;
            match (fields.get_mut(field.name), sent) {
                (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
                (Some(Value::Object(all)), Value::Object(more)) => all.extend(more),
                (_, sent) if is_zero(&sent) && !field.keeps_zero => {}
                (_, sent) => drop(fields.insert(field.name.to_owned(), sent)),
            }
        }
        Ok(Value::Object(fields))
    }

    /// A value of the type that `schema` gives; lists and maps come one item at a time.
    fn value(
        &self,
        schema: &Value,
        wire: Wire<'_>,
        field: &str,
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        if let Some(name) = reference(schema) {
            let Wire::Bytes(bytes) = wire else {
                return Err(mismatch(field));
            };
            return match name.rsplit('.').next().unwrap_or_default() {
                "Time" | "MicroTime" => time(bytes, name.ends_with("MicroTime"), field),
                "IntOrString" => int_or_string(bytes, field),
                "Quantity" => only_field(bytes, field),
                // Field ownership is not the client's to send.
                "FieldsV1" => Ok(Value::Null),
                _ => self.message(name, bytes, depth + 1),
            };
        }
        let kind = schema["type"].as_str().unwrap_or_default();
        match (kind, wire) {
            ("boolean", Wire::Number(n)) => Ok(json!(n != 0)),
            // Two's complement, as protobuf has it for plain integers.
            ("integer", Wire::Number(n)) => Ok(json!(n.cast_signed())),
            ("string", Wire::Bytes(bytes)) if schema["format"] == "byte" => {
                Ok(json!(STANDARD.encode(bytes)))
            }
            ("string", Wire::Bytes(bytes)) => Ok(json!(text(bytes, field)?)),
            ("array", wire) => {
                let item = self.value(&schema["items"], wire, field, depth)?;
                Ok(json!([item]))
            }
            ("object", Wire::Bytes(bytes)) => {
                self.entry(&schema["additionalProperties"], bytes, field, depth)
            }
            _ => Err(mismatch(field)),
        }
    }

    /// One entry of a map: a message of key and value.
    fn entry(
        &self,
        schema: &Value,
        bytes: &[u8],
        field: &str,
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        let (mut key, mut value) = (String::new(), Value::Null);
        for part in Fields(bytes) {
            match part? {
                (1, Wire::Bytes(bytes)) => key = text(bytes, field)?,
                // A list as a map's value is wrapped in a message of its own (`ExtraValue`).
                (2, Wire::Bytes(bytes)) if schema["type"] == "array" => {
                    let mut items = Vec::new();
                    for item in Fields(bytes) {
                        if let (1, Wire::Bytes(bytes)) = item? {
                            items.push(json!(text(bytes, field)?));
                        }
                    }
                    value = Value::Array(items);
                }
                (2, wire) => value = self.value(schema, wire, field, depth)?,
                _ => {}
            }
        }
        if value.is_null() && schema["type"] == "string" {
            value = json!("");
        }
        Ok(Value::Object([(key, value)].into_iter().collect()))
    }
}

/// The definition that a schema refers to.
fn reference(schema: &Value) -> Option<&str> {
    let target = schema
        .get("$ref")
        .or_else(|| schema.pointer("/allOf/0/$ref"));
    target?.as_str()?.rsplit('/').next()
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// `seconds`, `nanos`; an empty message is no time at all.
fn time(bytes: &[u8], micro: bool, field: &str) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (None, 0i64);
    for part in Fields(bytes) {
        match part? {
            (1, Wire::Number(n)) => seconds = Some(n.cast_signed()),
            (2, Wire::Number(n)) => nanos = n.cast_signed(),
            _ => {}
        }
    }
    let Some(seconds) = seconds else {
        return Ok(Value::Null);
    };
    let bad = || ProtobufError::Time {
        field: field.to_owned(),
    };
    let moment = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_outside| bad())?;
    let moment = moment + time::Duration::nanoseconds(nanos);
    let seconds = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let micros =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let written = if micro {
        moment.format(micros)
    } else {
        moment.format(seconds)
    };
    written.map(Value::String).map_err(|_unwritable| bad())
}

/// `type`, `intVal`, `strVal`.
fn int_or_string(bytes: &[u8], field: &str) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut word) = (false, 0, String::new());
    for part in Fields(bytes) {
        match part? {
            (1, Wire::Number(n)) => is_text = n == 1,
            (2, Wire::Number(n)) => number = n.cast_signed(),
            (3, Wire::Bytes(bytes)) => word = text(bytes, field)?,
            _ => {}
        }
    }
    Ok(if is_text { json!(word) } else { json!(number) })
}

/// The text of a message that wraps one.
fn only_field(bytes: &[u8], field: &str) -> Result<Value, ProtobufError> {
    for part in Fields(bytes) {
        if let (1, Wire::Bytes(bytes)) = part? {
            return Ok(json!(text(bytes, field)?));
        }
    }
    Ok(json!("0"))
}

#[cfg(test)]
mod tests;
