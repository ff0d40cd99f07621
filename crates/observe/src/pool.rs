//! Address pools and how full they are.

use serde::{Deserialize, Serialize};

use crate::{render::Render, text, timestamp::Timestamp};

/// One `CiliumLoadBalancerIPPool`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpPoolRow {
    /// Object name.
    pub name: String,
    /// Blocks as written: `192.0.2.0/28`, `192.0.2.20 - 192.0.2.30`.
    pub blocks: Vec<String>,
    /// Addresses in all, decimal (IPv6 pools exceed any integer type). `None` until the operator has counted.
    pub total: Option<String>,
    /// Of these free.
    pub available: Option<String>,
    /// Of these given out.
    pub used: Option<String>,
    /// `spec.disabled`.
    pub is_disabled: bool,
    /// It overlaps another pool and gives nothing out: the condition's message.
    pub conflict: Option<String>,
    /// When it was created.
    pub created: Option<Timestamp>,
}

impl IpPoolRow {
    fn state(&self) -> &'static str {
        match (&self.conflict, self.is_disabled) {
            (Some(_), _) => "Conflict",
            (None, true) => "Disabled",
            (None, false) => "Ready",
        }
    }
}

impl Render for Vec<IpPoolRow> {
    fn table(&self, now: Timestamp) -> String {
        if self.is_empty() {
            return "No CiliumLoadBalancerIPPool exists: Services of type LoadBalancer get no address.\n"
                .to_owned();
        }
        let number = |n: &Option<String>| n.clone().unwrap_or_else(|| "-".to_owned());
        let rows = self.iter().map(|row| {
            [
                row.name.clone(),
                row.state().to_owned(),
                number(&row.used),
                number(&row.available),
                row.created
                    .map_or_else(|| "-".to_owned(), |t| text::age(t.until(now))),
                row.blocks.join(", "),
            ]
        });
        let mut text = text::columns(&["NAME", "STATE", "USED", "FREE", "AGE", "BLOCKS"], rows);
        for row in self {
            if let Some(conflict) = &row.conflict {
                text.extend(["\n", &row.name, ": ", conflict, "\n"]);
            }
        }
        text
    }
}
