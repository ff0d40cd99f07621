//! How an agent says no.

use serde::{Deserialize, Serialize};

/// The body of every response of the agent's API that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// Closed CamelCase word, the search key in the book.
    pub reason: String,
    /// What went wrong, one sentence.
    pub message: String,
    /// What to do next, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}
