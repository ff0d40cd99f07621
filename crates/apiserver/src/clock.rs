//! Wall time as API objects carry it.

use time::OffsetDateTime;
use time::macros::format_description;

pub(crate) fn now() -> OffsetDateTime {
    fairlead_rt::clock::wall().into()
}

/// `metav1.Time`: whole seconds, UTC.
pub(crate) fn timestamp() -> String {
    now()
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second]Z"
        ))
        .expect("every component of the format is part of a date and time")
}
