//! `fairlead appliance promote`: this node serves the API from its copy, and whoever did gives way.
//!
//! The order: the one who serves is asked to yield (its last copy holds every write it acknowledged) → the copy becomes a store of the next
//! reign → the role on disk changes, which a running process notices within a second. If the one who serves does not answer, the copy on
//! disk is used, and it gives way when it comes back.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use fairlead_apiserver::{Copy, Fence, member::YIELD};
use hyper::Method;
use serde_json::json;

use super::{
    copy,
    home::{Home, Membership, Role},
    wire::{Ask, Wire, WireError},
};

/// A copy of thousands of Services over a slow link.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between nodes of a LAN.
const SHORT: Duration = Duration::from_secs(3);
/// So often the role is written, a moment apart.
const SETTLE: u32 = 3;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// The reign that begins.
    pub fence: Fence,
    /// Objects taken over.
    pub n_objects: usize,
    /// Whether the former one yielded; otherwise what it wrote after the copy is lost.
    pub has_yielded: bool,
}

/// Makes the node of this state folder the one that serves.
///
/// # Errors
/// A node that serves already, or has no usable copy.
///
/// # Cancel safety
/// The former one may have yielded; doing it again goes on.
pub async fn promote(state_dir: &Path, node: &str) -> Result<Promoted> {
    let home = Home::new(state_dir);
    let Some(membership) = home.membership()? else {
        bail!(
            "{} belongs to no group: only a node that joined with --token-file can take over",
            state_dir.display()
        );
    };
    if membership.role == Role::Api {
        bail!(
            "this node serves the API already (reign {})",
            membership.fence.number
        );
    }
    let wire = wire(&home)?;
    let latest = latest(&wire, &membership).await;
    let fence = Fence {
        number: membership.fence.number.max(latest.number) + 1,
        node: node.to_owned(),
    };
    let last = last_copy(&wire, &membership, &fence).await?;
    let has_yielded = last.is_some();
    let copy = match last {
        Some(copy) => copy,
        None => copy::read(&home.file("copy"))
            .map_err(|error| anyhow::anyhow!("{}: {error}", error.reason()))
            .context("the node that serves the API does not answer, and there is no copy to take over from")?,
    };
    let number = fence.number;
    let (n_objects, dir) = (copy.objects.len(), home.api_dir());
    fairlead_rt::blocking(move || copy.restore(&dir, number))
        .await
        .context("make a store of the copy")?;
    let role = Membership {
        role: Role::Api,
        fence: fence.clone(),
        ..membership
    };
    // The running process writes the same file, and may have begun to just before.
    for _ in 0..SETTLE {
        home.keep(&role)?;
        tokio::time::sleep(SHORT / 10).await;
    }
    Ok(Promoted {
        fence,
        n_objects,
        has_yielded,
    })
}

/// The wire with what the node has on disk.
///
/// # Errors
/// Names the file that is missing.
pub fn wire(home: &Home) -> Result<Wire> {
    let ca = home.read("ca.crt")?;
    let wire = Wire::trusting(&ca.context("cluster/ca.crt is missing: join again")?)?;
    if let Some(pem) = home.read("node.pem")? {
        wire.show(&pem, &pem)?;
    }
    Ok(wire)
}

/// The latest reign that anybody answers for.
async fn latest(wire: &Wire, membership: &Membership) -> Fence {
    let mut latest = membership.fence.clone();
    for (_, fence) in super::control::ask_around(wire, &membership.candidates(""), SHORT).await {
        latest = latest.max(fence);
    }
    latest
}

/// The last copy of whoever serves; `None` if nobody answers.
async fn last_copy(wire: &Wire, membership: &Membership, to: &Fence) -> Result<Option<Copy>> {
    let body = json!(to);
    let ask = Ask {
        method: &Method::POST,
        path: YIELD,
        bearer: None,
        body: Some(&body),
        deadline: DEADLINE,
    };
    let everybody = membership.candidates("");
    let mut serving = super::control::ask_around(wire, &everybody, SHORT).await;
    serving.sort_by(|(_, a), (_, b)| b.cmp(a));
    let Some((at, _)) = serving.first() else {
        return Ok(None);
    };
    match wire.ask(*at, ask).await {
        Ok((_, json)) => {
            let copy = serde_json::from_slice(&json);
            Ok(Some(copy.context(
                "read the last copy of the node that serves the API",
            )?))
        }
        Err(error @ WireError::Refused { .. }) => {
            Err(anyhow::Error::new(error).context("the node that serves the API does not give way"))
        }
        Err(error) => {
            tracing::warn!(reason = error.reason(), %error, "it answers no more");
            Ok(None)
        }
    }
}
