//! Label selectors as text, as `kubectl -l` takes them.

use fairlead_model::{Requirement, Selector};

/// All requirements of the text; an empty text selects everything.
///
/// # Errors
/// The requirement that cannot be read, and why.
///
/// # Source
/// Kubernetes, "Labels and Selectors": `k`, `!k`, `k=v`, `k==v`, `k!=v`, `k in (a, b)`, `k notin (a, b)`, joined by commas.
pub fn parse(text: &str) -> Result<Selector, String> {
    let requirements = split(text).map(|item| {
        one(item.trim())
            .map_err(|why| format!("`{}` is no requirement on labels: {why}", item.trim()))
    });
    let requirements: Vec<Requirement> = requirements.collect::<Result<_, _>>()?;
    Ok(Selector::new(
        std::collections::BTreeMap::new(),
        requirements,
    ))
}

/// At the commas that stand in no parentheses; nothing for a blank text.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    let items = text.split(move |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    items.filter(move |_| !text.trim().is_empty())
}

fn one(item: &str) -> Result<Requirement, String> {
    let make = |key: &str, operator: &str, values: &[&str]| {
        let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        if let Some(bad) = values.iter().find(|v| !is_value(v)) {
            return Err(format!("`{bad}` is no label value"));
        }
        Requirement::new(key.trim(), operator, &values).map_err(|e| e.to_string())
    };
    if let Some(key) = item.strip_prefix('!') {
        return make(key, "DoesNotExist", &[]);
    }
    if let Some((key, value)) = item.split_once("!=") {
        return make(key, "NotIn", &[value.trim()]);
    }
    if let Some((key, value)) = item.split_once("==").or_else(|| item.split_once('=')) {
        return make(key, "In", &[value.trim()]);
    }
    let Some((head, list)) = item.split_once('(') else {
        return make(item, "Exists", &[]);
    };
    let list = list
        .strip_suffix(')')
        .ok_or("the closing parenthesis is missing")?;
    let values: Vec<&str> = list.split(',').map(str::trim).collect();
    match head.trim().rsplit_once(char::is_whitespace) {
        Some((key, "in")) => make(key, "In", &values),
        Some((key, "notin")) => make(key, "NotIn", &values),
        Some(_) | None => Err("use `in` or `notin` before a list".to_owned()),
    }
}

/// At most 63 characters, letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit; or nothing.
fn is_value(text: &str) -> bool {
    let is_edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && is_edge(text.chars().next())
        && is_edge(text.chars().last())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn selectors_mean_what_kubectl_means() {
        let labels = [("a", "b"), ("zone", "x"), ("empty", "")];
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (text, wanted) in [
            ("", true),
            ("  ", true),
            ("a", true),
            ("!a", false),
            ("!c", true),
            ("a=b", true),
            ("a == b", true),
            ("a!=b", false),
            ("c!=b", true),
            ("empty=", true),
            ("zone in (x, y)", true),
            ("zone notin (x,y)", false),
            ("a=b,zone in (x,y),!c", true),
            ("a=b,zone in (y)", false),
        ] {
            assert_eq!(parse(text).unwrap().matches(&labels), wanted, "{text}");
        }
        for text in [
            "a=b,",
            "a in x",
            "a in (x",
            "a like (x)",
            "=b",
            "a=b c",
            "!",
            "a>1",
        ] {
            let said = parse(text).unwrap_err();
            assert!(
                said.contains("is no requirement on labels"),
                "{text}: {said}"
            );
        }
    }
}
