//! Holding an object against its schema.
//!
//! Messages follow kube-openapi's validation, where the field is named twice on purpose: kubectl prints the message alone.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::{Schema, Type, join};
use crate::status::Cause;

impl Schema {
    /// Appends what is wrong with `value`, which lies at `path`.
    pub(crate) fn check(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() {
            if !self.nullable && (self.kind.is_some() || self.int_or_string) {
                causes.push(self.wrong_type(value, path));
            }
            return;
        }
        if !self.is_of_type(value) {
            causes.push(self.wrong_type(value, path));
            return;
        }
        if !self.choices.is_empty() && !self.choices.contains(value) {
            let supported: Vec<&str> = self.choices.iter().filter_map(Value::as_str).collect();
            causes.push(Cause::not_supported(path, value, &supported));
        }
        match value {
            Value::Object(fields) => self.check_object(value, fields, path, causes),
            Value::Array(items) => self.check_array(items, path, causes),
            Value::String(text) => self.check_string(value, text, path, causes),
            Value::Number(number) => self.check_number(value, number, path, causes),
            Value::Bool(_) | Value::Null => {}
        }
        self.check_combinations(value, path, causes);
    }

    fn is_of_type(&self, value: &Value) -> bool {
        if self.int_or_string {
            return value.is_string() || is_integer(value);
        }
        match self.kind {
            None => true,
            Some(Type::Object) => value.is_object(),
            Some(Type::Array) => value.is_array(),
            Some(Type::String) => value.is_string(),
            Some(Type::Integer) => is_integer(value),
            Some(Type::Number) => value.is_number(),
            Some(Type::Boolean) => value.is_boolean(),
        }
    }

    fn wrong_type(&self, value: &Value, path: &str) -> Cause {
        let wanted = if self.int_or_string {
            "integer or string"
        } else {
            self.kind.map_or("any", Type::word)
        };
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) if is_integer(value) => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        Cause::type_invalid(
            path,
            value,
            &format!("{path} in body must be of type {wanted}: \"{found}\""),
        )
    }

    fn check_object(
        &self,
        value: &Value,
        fields: &serde_json::Map<String, Value>,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        for name in &self.required {
            if !fields.contains_key(name) {
                causes.push(Cause::required(&join(path, name), ""));
            }
        }
        let n = fields.len() as u64;
        if let Some(least) = self.min_properties.filter(|&least| n < least) {
            let detail = format!("{path} in body should have at least {least} properties");
            causes.push(Cause::invalid(path, value, &detail));
        }
        if let Some(most) = self.max_properties.filter(|&most| n > most) {
            causes.push(Cause::too_many(path, fields.len(), most));
        }
        for (name, value) in fields {
            if let Some(schema) = self.properties.get(name) {
                schema.check(value, &join(path, name), causes);
            } else if let Some(schema) = &self.additional {
                schema.check(value, &join(path, name), causes);
            }
        }
    }

    fn check_array(&self, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
        let n = items.len() as u64;
        if let Some(least) = self.min_items.filter(|&least| n < least) {
            let detail = format!("{path} in body should have at least {least} items");
            causes.push(Cause::invalid(path, &json!(n), &detail));
        }
        if let Some(most) = self.max_items.filter(|&most| n > most) {
            causes.push(Cause::too_many(path, items.len(), most));
        }
        if (self.unique_items || self.list_set)
            && let Some(twin) = twin(items, Value::to_string)
        {
            causes.push(Cause::duplicate(&format!("{path}[{twin}]"), &items[twin]));
        }
        if !self.list_map_keys.is_empty() {
            let key = |item: &Value| {
                let keys = self.list_map_keys.iter();
                Value::Object(
                    keys.filter_map(|key| Some((key.clone(), item.get(key)?.clone())))
                        .collect(),
                )
            };
            if let Some(twin) = twin(items, |item| key(item).to_string()) {
                causes.push(Cause::duplicate(
                    &format!("{path}[{twin}]"),
                    &key(&items[twin]),
                ));
            }
        }
        if let Some(schema) = &self.items {
            for (n, item) in items.iter().enumerate() {
                schema.check(item, &format!("{path}[{n}]"), causes);
            }
        }
    }

    fn check_string(&self, value: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
        let n = text.chars().count() as u64;
        if let Some(least) = self.min_length.filter(|&least| n < least) {
            let detail = format!("{path} in body should be at least {least} chars long");
            causes.push(Cause::invalid(path, value, &detail));
        }
        if let Some(most) = self.max_length.filter(|&most| n > most) {
            causes.push(Cause::too_long(path, most));
        }
        if let Some(pattern) = self
            .pattern
            .as_ref()
            .filter(|pattern| !pattern.is_match(text))
        {
            let detail = format!("{path} in body should match '{pattern}'");
            causes.push(Cause::invalid(path, value, &detail));
        }
        if let Some(format) = self
            .format
            .as_deref()
            .filter(|format| !fits_format(text, format))
        {
            let detail = format!("{path} in body must be of type {format}: {value}");
            causes.push(Cause::invalid(path, value, &detail));
        }
    }

    fn check_number(
        &self,
        value: &Value,
        number: &serde_json::Number,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        let Some(n) = number.as_f64() else { return };
        let mut refuse = |detail: String| causes.push(Cause::invalid(path, value, &detail));
        match self.minimum {
            Some(least) if self.exclusive_minimum && n <= least => {
                refuse(format!("{path} in body should be greater than {least}"));
            }
            Some(least) if n < least => refuse(format!(
                "{path} in body should be greater than or equal to {least}"
            )),
            _ => {}
        }
        match self.maximum {
            Some(most) if self.exclusive_maximum && n >= most => {
                refuse(format!("{path} in body should be less than {most}"));
            }
            Some(most) if n > most => refuse(format!(
                "{path} in body should be less than or equal to {most}"
            )),
            _ => {}
        }
        if let Some(step) = self.multiple_of
            && (n / step).fract() != 0.0
        {
            refuse(format!("{path} in body should be a multiple of {step}"));
        }
        let fits = match self.format.as_deref() {
            Some("int32") => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            Some("int64") => number.as_i64().is_some(),
            _ => true,
        };
        if !fits {
            let format = self.format.as_deref().unwrap_or_default();
            refuse(format!("{path} in body must be of type {format}: {value}"));
        }
    }

    fn check_combinations(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let holds = |schema: &Self| {
            let mut inner = Vec::new();
            schema.check(value, path, &mut inner);
            inner.is_empty()
        };
        self.all_of
            .iter()
            .for_each(|schema| schema.check(value, path, causes));
        if !self.any_of.is_empty() && !self.any_of.iter().any(holds) {
            causes.push(Cause::invalid(
                path,
                value,
                &format!("{path} in body must validate at least one schema (anyOf)"),
            ));
        }
        if !self.one_of.is_empty() && self.one_of.iter().filter(|schema| holds(schema)).count() != 1
        {
            let detail = format!("{path} in body must validate one and only one schema (oneOf)");
            causes.push(Cause::invalid(path, value, &detail));
        }
        if self.not.as_deref().is_some_and(holds) {
            causes.push(Cause::invalid(
                path,
                value,
                &format!("{path} in body must not validate the schema (not)"),
            ));
        }
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
}

/// The index of the first item whose key an earlier item has.
fn twin(items: &[Value], key: impl Fn(&Value) -> String) -> Option<usize> {
    let mut seen = HashSet::with_capacity(items.len());
    items.iter().position(|item| !seen.insert(key(item)))
}

/// Formats that apiextensions-apiserver checks and our CRDs use; others are only documentation.
fn fits_format(text: &str, format: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.contains('/') && text.parse::<ipnet::IpNet>().is_ok(),
        "date-time" => {
            time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
                .is_ok()
        }
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "mac" => {
            let octets: Vec<&str> = text.split([':', '-']).collect();
            matches!(octets.len(), 6 | 8)
                && octets
                    .iter()
                    .all(|o| o.len() == 2 && u8::from_str_radix(o, 16).is_ok())
        }
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }
        _ => true,
    }
}
