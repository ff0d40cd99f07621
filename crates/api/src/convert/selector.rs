//! Label selectors.

use fairlead_model::{Labels, Requirement, Selector};

use super::ConvertError;
use crate::label_selector::LabelSelector;

/// The selector at `field`; an absent one selects everything.
///
/// # Errors
/// The first requirement that Kubernetes would refuse, with its path.
pub fn selector(field: &str, given: Option<&LabelSelector>) -> Result<Selector, ConvertError> {
    let Some(given) = given else {
        return Ok(Selector::default());
    };
    let equals: Labels = given.match_labels.clone().unwrap_or_default();
    for (key, value) in &equals {
        // Only the key can be wrong here: `In` with one value is what a pair means.
        Requirement::new(key, "In", std::slice::from_ref(value))
            .map_err(|e| ConvertError::new(format!("{field}.matchLabels"), e))?;
    }
    let requirements = given
        .match_expressions
        .iter()
        .flatten()
        .enumerate()
        .map(|(idx, r)| {
            Requirement::new(&r.key, &r.operator, r.values.as_deref().unwrap_or_default())
                .map_err(|e| ConvertError::new(format!("{field}.matchExpressions[{idx}]"), e))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Selector::new(equals, requirements))
}
