//! Label selectors with the meaning of Kubernetes' `LabelSelector`.

use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Operator of a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The label is present and one of the values.
    In,
    /// The label is absent or none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// Why a selector is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// `In` and `NotIn` need values.
    #[error("{key}: {operator} needs at least one value")]
    NoValues {
        /// Label key of the requirement.
        key: String,
        /// Operator as written.
        operator: String,
    },
    /// `Exists` and `DoesNotExist` take none.
    #[error("{key}: {operator} takes no values")]
    UnwantedValues {
        /// Label key of the requirement.
        key: String,
        /// Operator as written.
        operator: String,
    },
    /// Not one of the four operators.
    #[error("{key}: unknown operator `{operator}`")]
    UnknownOperator {
        /// Label key of the requirement.
        key: String,
        /// Operator as written.
        operator: String,
    },
    /// A key that is no label key.
    #[error("`{key}` is not a label key")]
    BadKey {
        /// The key as written.
        key: String,
    },
}

impl SelectorError {
    /// The closed word for conditions, metrics and the book.
    pub const fn reason(&self) -> &'static str {
        "InvalidSelector"
    }
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// # Errors
    /// As Kubernetes: wrong number of values, unknown operator, empty key.
    pub fn new(key: &str, operator: &str, values: &[String]) -> Result<Self, SelectorError> {
        let fail = || (key.to_owned(), operator.to_owned());
        if key.is_empty()
            || key
                .chars()
                .any(|c| !(c.is_ascii_alphanumeric() || "-_./:".contains(c)))
        {
            return Err(SelectorError::BadKey {
                key: key.to_owned(),
            });
        }
        let (parsed, wants_values) = match operator {
            "In" => (Operator::In, true),
            "NotIn" => (Operator::NotIn, true),
            "Exists" => (Operator::Exists, false),
            "DoesNotExist" => (Operator::DoesNotExist, false),
            _ => {
                let (key, operator) = fail();
                return Err(SelectorError::UnknownOperator { key, operator });
            }
        };
        let (key, operator) = fail();
        match (wants_values, values.is_empty()) {
            (true, true) => Err(SelectorError::NoValues { key, operator }),
            (false, false) => Err(SelectorError::UnwantedValues { key, operator }),
            _ => Ok(Self {
                key,
                operator: parsed,
                values: values.to_vec(),
            }),
        }
    }

    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.contains(v)),
            Operator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// All requirements must hold; an empty selector selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    equals: Labels,
    requirements: Vec<Requirement>,
}

impl Selector {
    /// `equals` is `matchLabels`, `requirements` is `matchExpressions`.
    pub const fn new(equals: Labels, requirements: Vec<Requirement>) -> Self {
        Self {
            equals,
            requirements,
        }
    }

    /// Whether the labels satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.equals.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.requirements.iter().all(|r| r.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::{Labels, Requirement, Selector, SelectorError};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn operators_mean_what_kubernetes_means() {
        let red = labels(&[("color", "red")]);
        let none = Labels::new();
        let one = |op: &str, values: &[&str]| {
            let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
            Selector::new(
                Labels::new(),
                vec![Requirement::new("color", op, &values).unwrap()],
            )
        };
        assert!(one("In", &["red", "blue"]).matches(&red) && !one("In", &["red"]).matches(&none));
        assert!(one("NotIn", &["blue"]).matches(&red) && one("NotIn", &["red"]).matches(&none));
        assert!(one("Exists", &[]).matches(&red) && !one("Exists", &[]).matches(&none));
        assert!(one("DoesNotExist", &[]).matches(&none) && !one("DoesNotExist", &[]).matches(&red));
        assert!(Selector::default().matches(&none));
    }

    #[test]
    fn wrong_requirements_are_named() {
        assert!(matches!(
            Requirement::new("color", "In", &[]),
            Err(SelectorError::NoValues { .. })
        ));
        assert!(matches!(
            Requirement::new("color", "Exists", &["x".into()]),
            Err(SelectorError::UnwantedValues { .. })
        ));
        assert!(matches!(
            Requirement::new("color", "Near", &[]),
            Err(SelectorError::UnknownOperator { .. })
        ));
        assert!(matches!(
            Requirement::new("", "Exists", &[]),
            Err(SelectorError::BadKey { .. })
        ));
    }
}
