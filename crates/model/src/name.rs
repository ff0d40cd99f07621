//! Names of objects, validated once.

use std::fmt;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a DNS-1123 name.
    #[error("`{0}` is not a DNS-1123 name: lower-case letters, digits, `-` and `.`, at most 253")]
    NotDns(String),
    /// Not of the form NAMESPACE/NAME.
    #[error("`{0}` is not of the form NAMESPACE/NAME")]
    NoNamespace(String),
}

impl NameError {
    /// The closed word for conditions, metrics and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotDns(_) => "InvalidName",
            Self::NoNamespace(_) => "MissingNamespace",
        }
    }
}

fn check(text: &str) -> Result<(), NameError> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let all = text
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.');
    if text.len() <= 253 && all && edge(text.chars().next()) && edge(text.chars().last()) {
        Ok(())
    } else {
        Err(NameError::NotDns(text.to_owned()))
    }
}

/// Namespace and name of a Service. Orders by namespace, then name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    namespace: String,
    name: String,
}

impl ServiceName {
    /// # Errors
    /// [`NameError::NotDns`] names the offending part.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        check(namespace)?;
        check(name)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name inside the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| NameError::NoNamespace(text.to_owned()))?;
        Self::new(namespace, name)
    }
}

/// Name of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(String);

impl NodeName {
    /// # Errors
    /// [`NameError::NotDns`].
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{NameError, NodeName, ServiceName};

    #[test]
    fn a_service_name_reads_back_as_it_prints() {
        let name: ServiceName = "shop/web".parse().unwrap();
        assert_eq!(
            (name.namespace(), name.name(), name.to_string().as_str()),
            ("shop", "web", "shop/web")
        );
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        assert_eq!(
            "web".parse::<ServiceName>(),
            Err(NameError::NoNamespace("web".into()))
        );
        assert_eq!(
            ServiceName::new("shop", "Web"),
            Err(NameError::NotDns("Web".into()))
        );
        assert!(NodeName::new("-a").is_err());
        assert!(NodeName::new(&"a".repeat(254)).is_err());
    }
}
