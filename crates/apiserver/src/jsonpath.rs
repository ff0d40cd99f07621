//! The JSONPath of printer columns: fields, indexes, `[*]` and filters such as `[?(@.type=="Ready")]`.
//!
//! Source: kubernetes.io "JSONPath Support", as far as `additionalPrinterColumns` may use it (one expression, no `range`).

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// Negative counts from the end.
    Index(i64),
    Every,
    Filter(Filter),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    /// Fields below `@`.
    path: Vec<String>,
    /// `None` asks whether the field is there.
    test: Option<(Compare, Value)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
}

/// A compiled path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Compiles `.a.b[0]['c'].d[?(@.type=="x")].e`; braces around it are allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, left) = if let Some(inner) = rest.strip_prefix('[') {
                bracket(inner)?
            } else {
                field(rest.strip_prefix('.').unwrap_or(rest))?
            };
            steps.extend(step);
            rest = left;
        }
        Ok(Self(steps))
    }

    /// Every value the path leads to, in order.
    pub(crate) fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| step.apply(value))
                .collect();
        }
        found
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(fields)) => fields.get(name).into_iter().collect(),
            (Self::Index(n), Value::Array(items)) => {
                let at = if *n < 0 {
                    i64::try_from(items.len()).unwrap_or(0) + n
                } else {
                    *n
                };
                usize::try_from(at)
                    .ok()
                    .and_then(|at| items.get(at))
                    .into_iter()
                    .collect()
            }
            (Self::Every, Value::Array(items)) => items.iter().collect(),
            (Self::Every, Value::Object(fields)) => fields.values().collect(),
            (Self::Filter(filter), Value::Array(items)) => {
                items.iter().filter(|item| filter.keeps(item)).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Filter {
    fn keeps(&self, item: &Value) -> bool {
        let found = self
            .path
            .iter()
            .try_fold(item, |value, field| value.get(field));
        match &self.test {
            None => found.is_some(),
            Some((Compare::Equal, wanted)) => found == Some(wanted),
            Some((Compare::NotEqual, wanted)) => found.is_some_and(|value| value != wanted),
        }
    }
}

/// `name` up to an unescaped `.` or `[`; `\.` is a dot of the name.
fn field(text: &str) -> Result<(Option<Step>, &str), String> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            '.' | '[' => {
                end = at;
                break;
            }
            _ => name.push(c),
        }
    }
    let step = match name.as_str() {
        "" => None,
        "*" => Some(Step::Every),
        _ => Some(Step::Field(name)),
    };
    if step.is_none() && text.starts_with('.') {
        return Err("recursive descent (..) is not supported".into());
    }
    Ok((step, &text[end..]))
}

/// What follows `[`, up to and including its `]`.
fn bracket(text: &str) -> Result<(Option<Step>, &str), String> {
    let end = closing(text).ok_or_else(|| format!("no ] after [{text}"))?;
    let (inner, rest) = (text[..end].trim(), &text[end + 1..]);
    let step = if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        Step::Filter(parse_filter(filter)?)
    } else if inner == "*" {
        Step::Every
    } else if let Some(name) = unquote(inner) {
        Step::Field(name.to_owned())
    } else {
        Step::Index(inner.parse().map_err(|_not_a_number| {
            format!("[{inner}] is neither an index, a name in quotes nor a filter")
        })?)
    };
    Ok((Some(step), rest))
}

/// The `]` that closes, not one in quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
    }
    None
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"']
        .into_iter()
        .find_map(|q| text.strip_prefix(q)?.strip_suffix(q))
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    let (left, test) = match text
        .split_once("==")
        .map(|(l, r)| (l, Compare::Equal, r))
        .or_else(|| {
            text.split_once("!=")
                .map(|(l, r)| (l, Compare::NotEqual, r))
        }) {
        Some((left, compare, right)) => {
            let right = right.trim();
            let wanted = match unquote(right) {
                Some(text) => Value::from(text),
                None => serde_json::from_str(right)
                    .map_err(|_no_json| format!("{right} in a filter is no value"))?,
            };
            (left, Some((compare, wanted)))
        }
        None => (text, None),
    };
    let path = left
        .trim()
        .strip_prefix('@')
        .ok_or_else(|| format!("filter {text} does not begin with @"))?;
    let JsonPath(steps) = JsonPath::parse(path)?;
    let path = steps
        .into_iter()
        .map(|step| match step {
            Step::Field(name) => Ok(name),
            Step::Index(_) | Step::Every | Step::Filter(_) => {
                Err(format!("filter {text}: only fields may follow @"))
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(Filter { path, test })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find(path: &str, value: &Value) -> Vec<Value> {
        JsonPath::parse(path)
            .unwrap()
            .find(value)
            .into_iter()
            .cloned()
            .collect()
    }

    #[test]
    fn paths_of_real_printer_columns_lead_somewhere() {
        let pool = json!({"spec": {"disabled": true, "blocks": [{"cidr": "a"}, {"cidr": "b"}]},
            "metadata": {"annotations": {"a.b/c": "v"}},
            "status": {"conditions": [
                {"type": "cilium.io/PoolConflict", "status": "False"},
                {"type": "cilium.io/IPsAvailable", "message": "7"}]}});
        assert_eq!(find(".spec.disabled", &pool), [json!(true)]);
        assert_eq!(find("{.spec.disabled}", &pool), [json!(true)]);
        assert_eq!(
            find(".spec.blocks[*].cidr", &pool),
            [json!("a"), json!("b")]
        );
        assert_eq!(find(".spec.blocks[-1].cidr", &pool), [json!("b")]);
        assert_eq!(
            find(
                ".status.conditions[?(@.type==\"cilium.io/PoolConflict\")].status",
                &pool
            ),
            [json!("False")]
        );
        assert_eq!(
            find(
                ".status.conditions[?(@.type=='cilium.io/IPsAvailable')].message",
                &pool
            ),
            [json!("7")]
        );
        assert_eq!(
            find(".status.conditions[?(@.message)].type", &pool),
            [json!("cilium.io/IPsAvailable")]
        );
        assert_eq!(find(".metadata.annotations.a\\.b/c", &pool), [json!("v")]);
        assert_eq!(find(".metadata.annotations['a.b/c']", &pool), [json!("v")]);
        assert!(find(".status.missing[0].x", &pool).is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(JsonPath::parse(".a[?(b==1)]").is_err());
        assert!(JsonPath::parse(".a[0").is_err());
        assert!(JsonPath::parse(".a[x]").is_err());
        assert!(JsonPath::parse("..a").is_err());
    }
}
