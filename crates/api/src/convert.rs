//! API objects → model types, or an error that names the field.
//!
//! A conversion keeps what it can: [`Converted`] carries the value and every part that could not be read.
//! Only an object without a usable identity is refused as a whole.

mod endpoints;
mod node;
mod policy;
mod selector;
mod service;

use fairlead_model::{NameError, RangeError, SelectorError};

pub use endpoints::{Slice, join, slice};
pub use node::node;
pub use policy::{l2_policy, pool, reservation};
pub use selector::selector;
pub use service::{VipError, check_vip, service};

/// What is wrong with one field of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConvertError {
    /// Path as `kubectl explain` writes it, with list positions: `spec.blocks[0].start`.
    pub field: String,
    /// What is wrong.
    pub problem: Problem,
}

impl ConvertError {
    /// At `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The closed word for conditions, metrics and the book.
    pub const fn reason(&self) -> &'static str {
        self.problem.reason()
    }
}

/// What can be wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A required field is absent.
    #[error("is missing: {0}")]
    Missing(&'static str),
    /// Not an address.
    #[error("`{0}` is not an IPv4 or IPv6 address")]
    Address(String),
    /// An address that no Service can have.
    #[error("`{text}` cannot be the address of a Service: {why}")]
    UnusableVip {
        /// As written.
        text: String,
        /// Which rule it breaks.
        why: VipError,
    },
    /// Not a prefix.
    #[error("`{0}` is not a prefix such as 192.0.2.0/24 or 2001:db8::/64")]
    Prefix(String),
    /// IPv4 written as IPv6: no Service can have such an address.
    #[error("`{0}` is IPv4 in IPv6 form; write it as IPv4")]
    MappedAddress(String),
    /// Two ends that are no range.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Not a selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// Not a port.
    #[error("{0} is not a port; use 1 to 65535")]
    Port(i32),
    /// Not one of the words that the field knows.
    #[error("`{text}` is none of {allowed}")]
    Word {
        /// As written.
        text: String,
        /// What is possible.
        allowed: &'static str,
    },
    /// The object does not have the shape of its kind.
    #[error("does not have the shape of this kind: {0}")]
    Shape(String),
}

impl Problem {
    /// The closed word for conditions, metrics and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Name(e) => e.reason(),
            Self::Missing(_) => "MissingField",
            Self::Address(_) => "InvalidAddress",
            Self::UnusableVip { .. } => "UnusableAddress",
            Self::Prefix(_) => "InvalidPrefix",
            Self::MappedAddress(_) => "MappedAddress",
            Self::Range(e) => e.reason(),
            Self::Selector(e) => e.reason(),
            Self::Port(_) => "InvalidPort",
            Self::Word { .. } => "InvalidValue",
            Self::Shape(_) => "InvalidObject",
        }
    }
}

/// A value and the parts of its object that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted<T> {
    /// What could be read, with defaults for the rest.
    pub value: T,
    /// What could not.
    pub problems: Vec<ConvertError>,
}

/// A custom object that was watched as plain data, as its type.
///
/// # Errors
/// [`Problem::Shape`] at the field that does not fit.
pub fn typed<K: serde::de::DeserializeOwned>(
    object: &kube::api::DynamicObject,
) -> Result<K, ConvertError> {
    let shape = |e: serde_json::Error| ConvertError::new("spec", Problem::Shape(e.to_string()));
    let mut plain = serde_json::to_value(object).map_err(shape)?;
    // Cilium's schema lets a policy leave its spec out.
    if plain.get("spec").is_none_or(serde_json::Value::is_null) {
        plain["spec"] = serde_json::json!({});
    }
    serde_json::from_value(plain).map_err(shape)
}

/// A port number, or the error at `field`.
fn port(field: impl Into<String>, number: i32) -> Result<u16, ConvertError> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(ConvertError::new(field, Problem::Port(number))),
    }
}

/// An optional protocol; absent means TCP, as in Kubernetes.
fn protocol(
    field: impl Into<String>,
    text: Option<&str>,
) -> Result<fairlead_model::Protocol, ConvertError> {
    match text {
        None | Some("TCP") => Ok(fairlead_model::Protocol::Tcp),
        Some("UDP") => Ok(fairlead_model::Protocol::Udp),
        Some("SCTP") => Ok(fairlead_model::Protocol::Sctp),
        Some(other) => Err(ConvertError::new(
            field,
            Problem::Word {
                text: other.to_owned(),
                allowed: "TCP, UDP, SCTP",
            },
        )),
    }
}

#[cfg(test)]
mod tests;
