//! Bringing an object into shape: unknown fields out, nulls out, defaults in.

use serde_json::Value;

use super::{Schema, join};

impl Schema {
    /// Removes fields that the schema does not know and appends their paths to `unknown`.
    pub(crate) fn prune(&self, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                // An object without any statement about its fields is opaque: nothing in it can be unknown.
                let opaque = self.preserve_unknown
                    || (self.properties.is_empty()
                        && self.additional.is_none()
                        && self.kind.is_none());
                fields.retain(|name, value| {
                    if let Some(schema) = self.properties.get(name) {
                        schema.prune(value, &join(path, name), unknown);
                        return true;
                    }
                    if let Some(schema) = &self.additional {
                        schema.prune(value, &join(path, name), unknown);
                        return true;
                    }
                    if !opaque {
                        unknown.push(join(path, name));
                    }
                    opaque
                });
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (n, item) in items.iter_mut().enumerate() {
                        schema.prune(item, &format!("{path}[{n}]"), unknown);
                    }
                }
            }
            _ => {}
        }
    }

    /// Removes nulls where null is no value, as decoding into a typed object would. Maps keep theirs, for `check` to refuse.
    pub(crate) fn drop_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, value| match self.properties.get(name) {
                    Some(schema) => {
                        schema.drop_nulls(value);
                        !value.is_null() || schema.nullable
                    }
                    None => true,
                });
                if let Some(schema) = &self.additional {
                    for (_, value) in fields
                        .iter_mut()
                        .filter(|(name, _)| !self.properties.contains_key(*name))
                    {
                        schema.drop_nulls(value);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for item in items {
                        schema.drop_nulls(item);
                    }
                }
            }
            _ => {}
        }
    }

    /// Fills in defaults, from the outside in: a default object gets the defaults of its own fields.
    pub(crate) fn fill_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, schema) in &self.properties {
                    let missing = fields
                        .get(name)
                        .is_none_or(|value| value.is_null() && !schema.nullable);
                    if missing && let Some(default) = &schema.default {
                        fields.insert(name.clone(), default.clone());
                    }
                    if let Some(value) = fields.get_mut(name) {
                        schema.fill_defaults(value);
                    }
                }
                if let Some(schema) = &self.additional {
                    for (_, value) in fields
                        .iter_mut()
                        .filter(|(name, _)| !self.properties.contains_key(*name))
                    {
                        schema.fill_defaults(value);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for item in items {
                        schema.fill_defaults(item);
                    }
                }
            }
            _ => {}
        }
    }
}
