//! Reading a body: JSON or YAML into a value, with the names of the fields that were sent twice.
//!
//! The last of two equal fields counts, as with encoding/json; which those were is what `fieldValidation` tells the client.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::schema::join;

/// A decoded body.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sent {
    pub(crate) value: Value,
    /// Paths of fields that occur more than once, as in `spec.ports[0].port`.
    pub(crate) duplicates: Vec<String>,
}

/// One JSON document.
pub(crate) fn json(body: &[u8]) -> Result<Sent, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let sent = read(&mut deserializer)?;
    deserializer.end()?;
    Ok(sent)
}

/// One YAML document.
pub(crate) fn yaml(body: &[u8]) -> Result<Sent, serde_norway::Error> {
    read(serde_norway::Deserializer::from_slice(body))
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sent, D::Error> {
    let duplicates = RefCell::new(Vec::new());
    let value = At {
        path: "",
        duplicates: &duplicates,
    }
    .deserialize(deserializer)?;
    Ok(Sent {
        value,
        duplicates: duplicates.into_inner(),
    })
}

/// The value at `path`.
struct At<'a> {
    path: &'a str,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, list.len());
            let at = At {
                path: &path,
                duplicates: self.duplicates,
            };
            match items.next_element_seed(at)? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let path = join(self.path, &name);
            let value = entries.next_value_seed(At {
                path: &path,
                duplicates: self.duplicates,
            })?;
            if fields.insert(name, value).is_some() {
                let mut duplicates = self.duplicates.borrow_mut();
                if !duplicates.contains(&path) {
                    duplicates.push(path);
                }
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_sent_twice_are_named_and_the_last_counts() {
        let sent = json(
            br#"{"a": 1, "spec": {"ports": [{"port": 1, "port": 2}], "x": null, "x": 3, "x": 4}, "a": -2.5}"#,
        )
        .unwrap();
        assert_eq!(
            sent.value,
            json!({"a": -2.5, "spec": {"ports": [{"port": 2}], "x": 4}})
        );
        assert_eq!(sent.duplicates, ["spec.ports[0].port", "spec.x", "a"]);
        assert!(json(b"{} {}").is_err(), "only one document");
        assert!(json(b"{").is_err());
    }

    #[test]
    fn yaml_is_read_alike() {
        let sent = yaml(b"a: 1\nlist: [x, true, ~, 1.5]\na: two\n").unwrap();
        assert_eq!(
            sent.value,
            json!({"a": "two", "list": ["x", true, null, 1.5]})
        );
        assert_eq!(sent.duplicates, ["a"]);
        assert_eq!(yaml(b"a: 1\n").unwrap().duplicates, [""; 0]);
    }

    proptest! {
        /// Any JSON reads as serde_json itself reads it.
        #[test]
        fn other_json_reads_as_usual(text in "[\\[\\]{}\":,0-9a-c. truefalsnl-]{0,24}") {
            let usual: Result<Value, _> = serde_json::from_str(&text);
            let ours = json(text.as_bytes());
            prop_assert_eq!(usual.is_ok(), ours.is_ok());
            if let (Ok(usual), Ok(ours)) = (usual, ours) {
                prop_assert_eq!(usual, ours.value);
            }
        }
    }
}
