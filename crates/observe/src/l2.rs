//! Who answers for which VIP.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{render::Render, text, timestamp::Timestamp};

/// One VIP on the LAN, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct L2Row {
    /// The address.
    pub vip: IpAddr,
    /// NAMESPACE/NAME.
    pub service: String,
    /// The node that answers for it, `None` if nobody is known to.
    pub owner: Option<String>,
    /// The owner is the node that was asked.
    pub is_self: bool,
    /// The interface on which it is announced.
    pub interface: Option<String>,
    /// Since when the owner owns it.
    pub since: Option<Timestamp>,
    /// Order of the claim.
    pub epoch: u64,
    /// `Owner`, `Standby`, `Probing`, `Conflict`, ...: the closed words of the announcer.
    pub state: String,
    /// Why this owner, one sentence.
    pub why: String,
    /// Hardware address of a stranger that answers for it too, also while the owner goes on.
    #[serde(default)]
    pub conflict: Option<String>,
}

/// A change of who answers for a VIP on a node's segment, as that node saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct L2Event {
    /// Grows by one with each change that the node saw since its agent started.
    pub number: u64,
    /// When, to the second.
    pub at: Timestamp,
    /// Milliseconds after that.
    pub millis: u16,
    /// The address.
    pub vip: IpAddr,
    /// The interface of the node that saw it.
    pub interface: String,
    /// As in [`L2Row`].
    pub state: String,
    /// The node that answers for it from now on, `None` if nobody does.
    pub owner: Option<String>,
    /// Order of the claim.
    pub epoch: u64,
    /// Why, one sentence.
    pub why: String,
}

impl Render for Vec<L2Event> {
    fn table(&self, _now: Timestamp) -> String {
        if self.is_empty() {
            return "No change was seen since the agent started.\n".to_owned();
        }
        let rows = self.iter().map(|event| {
            let at = event.at.to_string();
            [
                format!("{}.{:03}Z", at.trim_end_matches('Z'), event.millis),
                event.vip.to_string(),
                event.interface.clone(),
                event.state.clone(),
                event.owner.clone().unwrap_or_else(|| "none".to_owned()),
                event.epoch.to_string(),
                event.why.clone(),
            ]
        });
        let header = ["TIME", "VIP", "INTERFACE", "STATE", "OWNER", "EPOCH", "WHY"];
        text::columns(&header, rows)
    }
}

impl Render for Vec<L2Row> {
    fn table(&self, now: Timestamp) -> String {
        if self.is_empty() {
            return "No VIP is announced: no Service has an address that an L2 policy selects.\n"
                .to_owned();
        }
        let rows = self.iter().map(|row| {
            let owner = match (&row.owner, row.is_self) {
                (Some(owner), true) => format!("{owner} (here)"),
                (Some(owner), false) => owner.clone(),
                (None, _) => "none".to_owned(),
            };
            let since = row
                .since
                .map_or_else(|| "-".to_owned(), |t| text::age(t.until(now)));
            [
                row.vip.to_string(),
                row.service.clone(),
                owner,
                since,
                row.interface.clone().unwrap_or_else(|| "-".to_owned()),
                row.state.clone(),
                row.why.clone(),
            ]
        });
        let header = [
            "VIP",
            "SERVICE",
            "OWNER",
            "SINCE",
            "INTERFACE",
            "STATE",
            "WHY",
        ];
        text::columns(&header, rows)
    }
}
