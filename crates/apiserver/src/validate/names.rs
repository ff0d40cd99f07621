//! Names as RFC 1123 and Kubernetes allow them.

type Verdict = Result<(), String>;

/// DNS-1123 label: names of Services and Namespaces.
pub(crate) fn label(text: &str) -> Verdict {
    if text.len() > 63 {
        return Err("must be no more than 63 bytes".into());
    }
    if is_label(text) {
        return Ok(());
    }
    Err("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with \
         an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        .into())
}

/// DNS-1123 subdomain: names of most objects.
pub(crate) fn subdomain(text: &str) -> Verdict {
    if text.len() > 253 {
        return Err("must be no more than 253 bytes".into());
    }
    if text.split('.').all(is_label) {
        return Ok(());
    }
    Err("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
         end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        .into())
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// `prefix/name` or `name`: keys of labels and annotations, finalizers, classes.
pub(crate) fn qualified(text: &str) -> Verdict {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Err("prefix part must be non-empty".into());
        }
        subdomain(prefix).map_err(|detail| format!("prefix part {detail}"))?;
    }
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 bytes".into());
    }
    if is_word(name) {
        return Ok(());
    }
    Err("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
         character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        .into())
}

/// The value of a label; may be empty.
pub(crate) fn label_value(text: &str) -> Verdict {
    if text.len() > 63 {
        return Err("must be no more than 63 bytes".into());
    }
    if text.is_empty() || is_word(text) {
        return Ok(());
    }
    Err("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end \
         with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
         '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        .into())
}

fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    text.bytes().all(inner) && edge(text.as_bytes().first()) && edge(text.as_bytes().last())
}

/// Keys of ConfigMaps and Secrets.
pub(crate) fn config_key(text: &str) -> Verdict {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if text.len() > 253 {
        return Err("must be no more than 253 bytes".into());
    }
    if text == "." || text.starts_with("..") {
        return Err("must not be '.' or start with '..'".into());
    }
    if !text.is_empty() && text.bytes().all(inner) {
        return Ok(());
    }
    Err("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
         'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        .into())
}

/// A port's name, RFC 6335 section 5.1: `http`, `dns-tcp`.
pub(crate) fn port_name(text: &str) -> Verdict {
    if text.len() > 15 {
        return Err("must be no more than 15 bytes".into());
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return Err(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into(),
        );
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        return Err("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("must not begin or end with a hyphen".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_kubernetes_judges_them() {
        for good in ["a", "a-b", "1a", &"x".repeat(63)] {
            assert!(label(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a.b", "-a", "a-", "a_b", &"x".repeat(64)] {
            assert!(label(bad).is_err(), "{bad}");
        }
        assert!(subdomain("a.b-c.d").is_ok());
        for bad in ["a..b", ".a", "a.", "a.B"] {
            assert!(subdomain(bad).is_err(), "{bad}");
        }
        for good in [
            "app",
            "cilium.io/IPsAvailable",
            "a/B_c.d",
            "kubernetes.io/metadata.name",
        ] {
            assert!(qualified(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "A.b/c", "a/b/c", "-a", "a b"] {
            assert!(qualified(bad).is_err(), "{bad}");
        }
        assert!(
            label_value("").is_ok() && label_value("v1.2_3").is_ok() && label_value("-").is_err()
        );
        assert!(
            config_key("a.b_C").is_ok() && config_key("..a").is_err() && config_key("a/b").is_err()
        );
        assert!(port_name("dns-tcp").is_ok());
        for bad in ["", "123", "a--b", "-a", "UPPER", "sixteen-letters-"] {
            assert!(port_name(bad).is_err(), "{bad}");
        }
    }
}
