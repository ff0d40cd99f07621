//! Label and field selectors of lists and watches.
//!
//! Source: apimachinery `labels.Parse` and `fields.ParseSelector`.

use serde_json::Value;

use crate::kinds::{Kind, Rules, event};
use crate::status::ApiError;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

/// What a list or a watch is limited to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    /// JSON pointer, wanted text, and whether it must be equal.
    fields: Vec<(String, String, bool)>,
    /// `metadata.name=` of a field selector, which needs no scan.
    pub(crate) name: Option<String>,
}

impl Selector {
    pub(crate) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = parse_labels(labels).map_err(|detail| {
            ApiError::bad_request(format!("unable to parse requirement: {detail}"))
        })?;
        let mut selector = Self {
            labels,
            ..Self::default()
        };
        for term in fields
            .split(',')
            .map(str::trim)
            .filter(|term| !term.is_empty())
        {
            let (field, value, equal) = split_term(term).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "invalid field selector: {term:?}: can't understand"
                ))
            })?;
            let pointer = field_pointer(kind, field).ok_or_else(|| {
                ApiError::bad_request(format!("field label not supported: {field}"))
            })?;
            if field == "metadata.name" && equal {
                selector.name = Some(value.to_owned());
            }
            selector.fields.push((pointer, value.to_owned(), equal));
        }
        Ok(selector)
    }

    /// Whether it keeps everything.
    pub(crate) const fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn keeps(&self, object: &Value) -> bool {
        let labels = object
            .pointer("/metadata/labels")
            .and_then(Value::as_object);
        let label = |key: &str| {
            labels
                .and_then(|labels| labels.get(key))
                .and_then(Value::as_str)
        };
        self.labels.iter().all(
            |requirement| match (&requirement.test, label(&requirement.key)) {
                (Test::In(values), Some(value)) => values.iter().any(|wanted| wanted == value),
                (Test::NotIn(values), Some(value)) => !values.iter().any(|wanted| wanted == value),
                (Test::Exists, found) => found.is_some(),
                (Test::Absent, found) => found.is_none(),
                (Test::In(_), None) => false,
                (Test::NotIn(_), None) => true,
            },
        ) && self.fields.iter().all(|(pointer, wanted, equal)| {
            let found = match object.pointer(pointer) {
                Some(Value::Bool(flag)) => flag.to_string(),
                Some(Value::String(text)) => text.clone(),
                _ if pointer == "/spec/unschedulable" => "false".to_owned(),
                _ => String::new(),
            };
            (found == *wanted) == *equal
        })
    }
}

fn split_term(term: &str) -> Option<(&str, &str, bool)> {
    if let Some((field, value)) = term.split_once("!=") {
        return Some((field, value, false));
    }
    let (field, value) = term.split_once("==").or_else(|| term.split_once('='))?;
    Some((field, value, true))
}

/// Where a selectable field lies; `None` for those a kind cannot be selected by.
fn field_pointer(kind: &Kind, field: &str) -> Option<String> {
    let own: &[&str] = match kind.rules {
        Rules::Service => &["spec.clusterIP", "spec.type"],
        Rules::Secret => &["type"],
        Rules::Node => &["spec.unschedulable"],
        Rules::Namespace => &["status.phase"],
        Rules::Event => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        Rules::NewEvent => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        Rules::ConfigMap
        | Rules::EndpointSlice
        | Rules::Lease
        | Rules::Definition
        | Rules::Review
        | Rules::Component
        | Rules::Custom => &[],
    };
    let known = field == "metadata.name"
        || (field == "metadata.namespace" && kind.namespaced)
        || own.contains(&field);
    known.then(|| match field {
        "source" => "/source/component".to_owned(),
        _ if kind.rules == Rules::NewEvent => {
            format!("/{}", event::core_field(field).replace('.', "/"))
        }
        _ => format!("/{}", field.replace('.', "/")),
    })
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    let mut requirements = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = term_end(rest);
        requirements.push(parse_requirement(rest[..end].trim())?);
        rest = rest[end..]
            .strip_prefix(',')
            .unwrap_or_default()
            .trim_start();
    }
    Ok(requirements)
}

/// The comma that ends a term, not one between parentheses.
fn term_end(text: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

fn parse_requirement(term: &str) -> Result<Requirement, String> {
    let make = |key: &str, test: Test| {
        let key = key.trim();
        let is_key =
            !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || "()=!,".contains(c));
        if is_key {
            Ok(Requirement {
                key: key.to_owned(),
                test,
            })
        } else {
            Err(format!("{term:?}: bad key {key:?}"))
        }
    };
    if let Some(key) = term.strip_prefix('!') {
        return make(key, Test::Absent);
    }
    if let Some((key, value)) = term.split_once("!=") {
        return make(key, Test::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return make(key, Test::In(vec![value.trim().to_owned()]));
    }
    if let Some((head, values)) = term.strip_suffix(')').and_then(|term| term.split_once('(')) {
        let values = values
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect();
        let (key, operator) = head
            .trim()
            .rsplit_once(char::is_whitespace)
            .ok_or_else(|| format!("{term:?}"))?;
        return match operator {
            "in" => make(key, Test::In(values)),
            "notin" => make(key, Test::NotIn(values)),
            _ => Err(format!(
                "{term:?}: operator {operator:?} is none of in, notin"
            )),
        };
    }
    make(term, Test::Exists)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::Registry;

    fn keeps(labels: &str, fields: &str, object: &Value) -> bool {
        let registry = Registry::new(&[]).unwrap();
        let kind = &registry.find("", "v1", "services").unwrap().kind;
        Selector::parse(kind, labels, fields).unwrap().keeps(object)
    }

    #[test]
    fn label_selectors_keep_what_kubernetes_keeps() {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}}});
        for yes in [
            "",
            "app=web",
            "app==web",
            "app",
            "!other",
            "app!=db",
            "other!=x",
            "app in (db, web),tier",
            "app notin (db)",
            "other notin (x)",
            "app=web,tier=front",
        ] {
            assert!(keeps(yes, "", &object), "{yes}");
        }
        for no in [
            "app=db",
            "!app",
            "other",
            "app in (db)",
            "app notin (web)",
            "app=web,tier=back",
            "other=x",
        ] {
            assert!(!keeps(no, "", &object), "{no}");
        }
    }

    #[test]
    fn field_selectors_know_their_fields_only() {
        let object =
            json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {"type": "LoadBalancer"}});
        assert!(keeps("", "metadata.name=a,spec.type=LoadBalancer", &object));
        assert!(keeps("", "metadata.namespace!=x", &object));
        assert!(!keeps("", "metadata.name=b", &object));
        let registry = Registry::new(&[]).unwrap();
        let kind = &registry.find("", "v1", "services").unwrap().kind;
        let error = Selector::parse(kind, "", "spec.ports=1").unwrap_err();
        assert_eq!(error.to_string(), "field label not supported: spec.ports");
        assert!(Selector::parse(kind, "a b", "").is_err());
        assert!(Selector::parse(kind, "a like (b)", "").is_err());
    }
}
