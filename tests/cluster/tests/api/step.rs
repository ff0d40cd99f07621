//! One request, and how a table of them is written.

use serde_json::Value;

/// A named story: steps in order, in a namespace of its own (`{ns}` in paths and bodies).
pub(crate) struct Story {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// Steps of a story.
#[derive(Clone)]
pub(crate) enum Step {
    One(Ask),
    /// At once, to see who wins: answers are compared as a multiset of codes and reasons.
    Race(Vec<Ask>),
}

/// One request.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    /// With the query; `{ns}`, `{name}` and what was kept are filled in.
    pub(crate) path: String,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) accept: &'static str,
    pub(crate) body: String,
    /// Name and JSON pointer of what later steps use.
    pub(crate) keep: Vec<(&'static str, &'static str)>,
    /// The answer is a stream of events.
    pub(crate) is_watch: bool,
}

const JSON: &str = "application/json";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
pub(crate) const YAML: &str = "application/yaml";
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(crate) fn story(name: impl Into<String>, steps: impl IntoIterator<Item = Ask>) -> Story {
    Story {
        name: name.into(),
        steps: steps.into_iter().map(Step::One).collect(),
    }
}

fn ask(method: &'static str, path: &str, content_type: Option<&'static str>, body: String) -> Ask {
    Ask {
        method,
        path: path.to_owned(),
        content_type,
        accept: JSON,
        body,
        keep: Vec::new(),
        is_watch: false,
    }
}

pub(crate) fn get(path: &str) -> Ask {
    ask("GET", path, None, String::new())
}

pub(crate) fn post(path: &str, body: &Value) -> Ask {
    ask("POST", path, Some(JSON), body.to_string())
}

pub(crate) fn put(path: &str, body: &Value) -> Ask {
    ask("PUT", path, Some(JSON), body.to_string())
}

pub(crate) fn patch(path: &str, kind: &'static str, body: &Value) -> Ask {
    ask("PATCH", path, Some(kind), body.to_string())
}

pub(crate) fn delete(path: &str) -> Ask {
    ask("DELETE", path, None, String::new())
}

pub(crate) fn delete_with(path: &str, options: &Value) -> Ask {
    ask("DELETE", path, Some(JSON), options.to_string())
}

/// Any method with a body of any type.
pub(crate) fn raw(method: &'static str, path: &str, content_type: &'static str, body: &str) -> Ask {
    ask(method, path, Some(content_type), body.to_owned())
}

/// Events until the server ends the watch, a second later.
pub(crate) fn watch(path: &str, query: &str) -> Ask {
    let path = format!("{path}?watch=true&timeoutSeconds=1&{query}");
    Ask {
        is_watch: true,
        ..ask("GET", &path, None, String::new())
    }
}

impl Ask {
    pub(crate) fn keep(mut self, name: &'static str, pointer: &'static str) -> Self {
        self.keep.push((name, pointer));
        self
    }

    pub(crate) fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    /// How it is named in a finding.
    pub(crate) fn label(&self) -> String {
        let kind = match self.content_type {
            Some(MERGE) => " (merge)",
            Some(JSON_PATCH) => " (json)",
            Some(STRATEGIC) => " (strategic)",
            Some(APPLY) => " (apply)",
            Some(YAML) => " (yaml)",
            _ => "",
        };
        let table = if self.accept == TABLE { " (table)" } else { "" };
        format!("{} {}{kind}{table}", self.method, self.path)
    }
}
