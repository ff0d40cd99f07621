//! The OpenAPI v2 document: what older clients, and kubectl where it checks several objects at once, still ask for.
//!
//! It is derived from the v3 documents, so that there is one statement of each kind. client-go asks for it in protobuf only
//! (gnostic's `openapi.v2.Document`); that form leaves out the bounds of values, which no client reads from it.
//! Source: gnostic-models `openapiv2/OpenAPIv2.proto`.

use serde_json::{Map, Value, json};

/// One v2 document of all v3 documents.
pub(super) fn merge<'a>(documents: impl Iterator<Item = &'a Value>) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for document in documents {
        for (path, item) in fields(&document["paths"]) {
            let mut item = item.clone();
            to_v2(&mut item);
            let methods = item.as_object_mut().into_iter().flatten();
            methods.for_each(|(_, operation)| operation_to_v2(operation));
            paths.insert(path.clone(), item);
        }
        for (name, schema) in fields(&document["components"]["schemas"]) {
            let mut schema = schema.clone();
            to_v2(&mut schema);
            definitions.insert(name.clone(), schema);
        }
    }
    json!({ "swagger": "2.0", "info": { "title": "Fairlead", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths, "definitions": definitions })
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// References and what v2 has no word for.
fn to_v2(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref") {
                *target = target.replace("#/components/schemas/", "#/definitions/");
            }
            // A reference with a description was wrapped for v3; v2 readers expect the two side by side.
            if let Some(target) = fields.get("allOf").and_then(|all| all[0].get("$ref")) {
                let target = target.clone();
                fields.remove("allOf");
                fields.insert("$ref".into(), target);
                to_v2_reference(fields);
            }
            if let Some(schema) = fields
                .remove("schema")
                .filter(|_| fields.contains_key("in"))
            {
                fields.extend(schema.as_object().cloned().unwrap_or_default());
            }
            for word in ["oneOf", "anyOf", "not", "nullable"] {
                if fields.get(word).is_some_and(|found| !found.is_string()) {
                    fields.remove(word);
                }
            }
            fields.values_mut().for_each(to_v2);
        }
        Value::Array(items) => items.iter_mut().for_each(to_v2),
        _ => {}
    }
}

fn to_v2_reference(fields: &mut Map<String, Value>) {
    if let Some(Value::String(target)) = fields.get_mut("$ref") {
        *target = target.replace("#/components/schemas/", "#/definitions/");
    }
}

/// Bodies are parameters, and answers have no media types.
fn operation_to_v2(operation: &mut Value) {
    let Some(fields) = operation.as_object_mut() else {
        return;
    };
    let body = fields.remove("requestBody");
    let Some(responses) = fields.get_mut("responses") else {
        return;
    };
    for (_, response) in responses.as_object_mut().into_iter().flatten() {
        let schema = response["content"]["application/json"]["schema"].clone();
        if let Some(response) = response.as_object_mut() {
            response.remove("content");
            response.insert("schema".into(), schema);
        }
    }
    if let Some(content) = body.as_ref().and_then(|body| body["content"].as_object()) {
        fields.insert("consumes".into(), content.keys().cloned().collect());
        let schema = content.values().next().map(|media| media["schema"].clone());
        let parameter = json!({ "name": "body", "in": "body", "required": true, "schema": schema });
        if let Some(Value::Array(parameters)) = fields.get_mut("parameters") {
            parameters.push(parameter);
        }
    }
}

/// The document in protobuf.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    out.message(2, &info);
    let mut paths = Message::default();
    for (path, item) in fields(&document["paths"]) {
        paths.named(2, path, &path_item(item));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, value) in fields(&document["definitions"]) {
        definitions.named(1, name, &schema(value));
    }
    out.message(9, &definitions);
    out.0
}

/// A protobuf message as it is written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    fn bytes(&mut self, number: u64, content: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(content.len() as u64);
        self.0.extend_from_slice(content);
    }

    fn message(&mut self, number: u64, content: &Self) {
        self.bytes(number, &content.0);
    }

    /// A message of a name and a value.
    fn named(&mut self, number: u64, name: &str, value: &Self) {
        let mut pair = Self::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(number, &pair);
    }

    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u64, value: &Value) {
        if value == &json!(true) {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    /// Any value: gnostic keeps it as YAML, which JSON is.
    fn any(&mut self, number: u64, value: &Value) {
        let mut any = Self::default();
        any.bytes(2, value.to_string().as_bytes());
        self.message(number, &any);
    }

    fn extensions(&mut self, number: u64, of: &Value) {
        for (name, value) in fields(of).filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Self::default();
            any.bytes(2, value.to_string().as_bytes());
            self.named(number, name, &any);
        }
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &value["$ref"]);
    out.text(2, &value["format"]);
    out.text(4, &value["description"]);
    if let Some(default) = value.get("default") {
        out.any(5, default);
    }
    items(&value["required"]).for_each(|name| out.text(19, name));
    items(&value["enum"]).for_each(|choice| out.any(20, choice));
    match value.get("additionalProperties") {
        Some(inner @ Value::Object(_)) => {
            let mut additional = Message::default();
            additional.message(1, &schema(inner));
            out.message(21, &additional);
        }
        Some(allowed @ Value::Bool(_)) => {
            let mut additional = Message::default();
            additional.flag(2, allowed);
            out.message(21, &additional);
        }
        _ => {}
    }
    if value["type"].is_string() {
        let mut kind = Message::default();
        kind.text(1, &value["type"]);
        out.message(22, &kind);
    }
    if value["items"].is_object() {
        let mut item = Message::default();
        item.message(1, &schema(&value["items"]));
        out.message(23, &item);
    }
    if value["properties"].is_object() {
        let mut properties = Message::default();
        for (name, property) in fields(&value["properties"]) {
            properties.named(1, name, &schema(property));
        }
        out.message(25, &properties);
    }
    out.extensions(31, value);
    out
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (number, method) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (8, "patch"),
    ] {
        if item[method].is_object() {
            out.message(number, &operation(&item[method]));
        }
    }
    items(&item["parameters"]).for_each(|one| out.message(9, &parameter(one)));
    out
}

fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    items(&value["consumes"]).for_each(|media| out.text(7, media));
    items(&value["parameters"]).for_each(|one| out.message(8, &parameter(one)));
    let mut responses = Message::default();
    for (code, response) in fields(&value["responses"]) {
        let (mut item, mut inner) = (Message::default(), Message::default());
        item.message(1, &schema(&response["schema"]));
        inner.text(1, &response["description"]);
        inner.message(2, &item);
        let mut either = Message::default();
        either.message(1, &inner);
        responses.named(1, code, &either);
    }
    out.message(9, &responses);
    out.extensions(13, value);
    out
}

/// In the path, in the query, or the body.
fn parameter(value: &Value) -> Message {
    let (mut kind, mut out) = (Message::default(), Message::default());
    let mut one = Message::default();
    if value["in"] == "body" {
        one.text(2, &value["name"]);
        one.text(3, &value["in"]);
        one.flag(4, &value["required"]);
        one.message(5, &schema(&value["schema"]));
        kind.message(1, &one);
    } else {
        let in_path = value["in"] == "path";
        one.flag(1, &value["required"]);
        one.text(2, &value["in"]);
        one.text(4, &value["name"]);
        one.text(if in_path { 5 } else { 6 }, &value["type"]);
        let mut other = Message::default();
        other.message(if in_path { 4 } else { 3 }, &one);
        kind.message(2, &other);
    }
    out.message(1, &kind);
    out
}
