//! Conditions: one entry per type, whose time changes only when its status does.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Value of a condition's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// `True`.
    True,
    /// `False`.
    False,
    /// `Unknown`.
    Unknown,
}

impl Status {
    /// As written in the object.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// What a condition should say; no time, so that engines can compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Condition type, from [`crate::names::condition`].
    pub type_: &'static str,
    /// Its status.
    pub status: Status,
    /// One word for programs; never empty.
    pub reason: String,
    /// Details for people; may be empty. Cut to Kubernetes' limit of 32768 characters when written.
    pub message: String,
    /// `metadata.generation` of the object, if it has one.
    pub observed_generation: Option<i64>,
}

/// Sets the condition; returns whether the list changed. `now` is used only if the status differs from before.
pub fn set(conditions: &mut Vec<Condition>, wanted: &Wanted, now: &Time) -> bool {
    let old = conditions.iter().position(|c| c.type_ == wanted.type_);
    let transition = old
        .map(|idx| &conditions[idx])
        .filter(|c| c.status == wanted.status.as_str())
        .map_or_else(|| now.clone(), |c| c.last_transition_time.clone());
    let new = Condition {
        type_: wanted.type_.to_owned(),
        status: wanted.status.as_str().to_owned(),
        reason: wanted.reason.clone(),
        message: wanted.message.chars().take(32_768).collect(),
        observed_generation: wanted.observed_generation,
        last_transition_time: transition,
    };
    match old {
        Some(idx) if conditions[idx] == new => false,
        Some(idx) => {
            conditions[idx] = new;
            true
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

/// Removes the condition; returns whether it was there.
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|c| c.type_ != type_);
    conditions.len() != before
}

/// The condition of this type, if present.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// A wall-clock reading as Kubernetes writes it: whole seconds. Times that no calendar holds become the epoch.
pub fn time(wall: std::time::SystemTime) -> Time {
    let at = Timestamp::try_from(wall).unwrap_or(Timestamp::UNIX_EPOCH);
    Time(Timestamp::from_second(at.as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{Status, Wanted, find, remove, set, time};

    #[test]
    fn the_time_changes_only_with_the_status() {
        let (one, two) = (
            time(UNIX_EPOCH + Duration::from_millis(1_500)),
            time(UNIX_EPOCH + Duration::from_secs(2)),
        );
        let mut list = Vec::new();
        let mut wanted = Wanted {
            type_: "cilium.io/PoolConflict",
            status: Status::True,
            reason: "cidr_overlap".into(),
            message: "a".into(),
            observed_generation: Some(1),
        };
        assert!(set(&mut list, &wanted, &one));
        assert!(
            !set(&mut list, &wanted, &two),
            "the same again is no change"
        );
        wanted.message = "b".into();
        wanted.observed_generation = Some(2);
        assert!(set(&mut list, &wanted, &two));
        assert_eq!((list.len(), &list[0].last_transition_time), (1, &one));
        assert_eq!(list[0].observed_generation, Some(2));
        wanted.status = Status::False;
        assert!(set(&mut list, &wanted, &two));
        assert_eq!(find(&list, wanted.type_).unwrap().last_transition_time, two);
        assert!(remove(&mut list, wanted.type_) && !remove(&mut list, wanted.type_));
    }
}
