//! Findings: where two outcomes differ, by JSON pointer.

use serde_json::Value;

use crate::peer::Outcome;

/// One place at which the servers differ.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finding {
    /// Story and step.
    pub(crate) at: String,
    /// `code`, `warnings`, or a JSON pointer into the body.
    pub(crate) place: String,
    pub(crate) real: String,
    pub(crate) embedded: String,
}

pub(crate) fn compare(story: &str, real: &Outcome, embedded: &Outcome) -> Vec<Finding> {
    let mut findings = Vec::new();
    let at = format!("{story}: {}", real.label);
    let mut add = |place: String, a: String, b: String| {
        findings.push(Finding {
            at: at.clone(),
            place,
            real: a,
            embedded: b,
        });
    };
    if real.code != embedded.code {
        // What follows differs too, and says nothing more than the reasons.
        let brief = |outcome: &Outcome| {
            let body = &outcome.body;
            format!("{} {} {}", outcome.code, body["reason"], body["message"])
        };
        add("code".to_owned(), brief(real), brief(embedded));
        return findings;
    }
    if real.warnings != embedded.warnings {
        let text = |outcome: &Outcome| format!("{:?}", outcome.warnings);
        add("warnings".to_owned(), text(real), text(embedded));
    }
    descend("", &real.body, &embedded.body, &mut add);
    findings
}

fn descend(at: &str, real: &Value, embedded: &Value, add: &mut impl FnMut(String, String, String)) {
    let none = "(absent)";
    let text = |value: Option<&Value>| value.map_or_else(|| none.to_owned(), Value::to_string);
    match (real, embedded) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => descend(&place, a, b, add),
                    (a, b) => add(place, text(a), text(b)),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (idx, (a, b)) in a.iter().zip(b).enumerate() {
                descend(&format!("{at}/{idx}"), a, b, add);
            }
        }
        (a, b) if a == b => {}
        (a, b) => add(at.to_owned(), a.to_string(), b.to_string()),
    }
}
