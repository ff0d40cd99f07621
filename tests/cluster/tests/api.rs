//! The embedded API and the real kube-apiserver, asked the same: answers agree in code, reason and object, save for what
//! `api/differences.rs` lists and explains.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test that cannot go on should end there; tables of `json!` are read more easily without `&`"
)]

#[path = "api/compare.rs"]
mod compare;
#[path = "api/differences.rs"]
mod differences;
#[path = "api/kinds.rs"]
mod kinds;
#[path = "api/normal.rs"]
mod normal;
#[path = "api/peer.rs"]
mod peer;
#[path = "api/rules.rs"]
mod rules;
#[path = "api/services.rs"]
mod services;
#[path = "api/step.rs"]
mod step;

use fairlead_cluster::ControlPlane;
use futures::StreamExt as _;

use crate::differences::{DIFFERENCES, fits};
use crate::peer::{Embedded, tell};

/// Stories told at once: they share nothing, and those that watch mostly wait.
const AT_ONCE: usize = 128;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_answer_alike() {
    let plane = ControlPlane::start().unwrap();
    plane.install_crds().unwrap();
    let real = plane.client().await.unwrap();
    let server = Embedded::start();
    let embedded = server.client().await;
    let stories: Vec<_> = kinds::stories()
        .into_iter()
        .chain(rules::stories())
        .chain(services::stories())
        .collect();
    let told = futures::stream::iter(stories.iter().map(|story| async {
        let (real, embedded) = tokio::join!(tell(&real, story), tell(&embedded, story));
        let pairs = real.iter().zip(&embedded);
        let findings = pairs.flat_map(|(a, b)| compare::compare(&story.name, a, b));
        (real.len(), findings.collect::<Vec<_>>())
    }));
    let told: Vec<_> = told.buffered(AT_ONCE).collect().await;
    let n_requests: usize = told.iter().map(|(n, _)| n).sum();
    assert!(n_requests > 600, "only {n_requests} requests");
    let findings: Vec<_> = told
        .into_iter()
        .flat_map(|(_, findings)| findings)
        .collect();
    let covers = |row: &differences::Difference, finding: &compare::Finding| {
        fits(row.at, &finding.at) && fits(row.place, &finding.place)
    };
    let new = findings
        .iter()
        .filter(|finding| !DIFFERENCES.iter().any(|row| covers(row, finding)));
    let new: Vec<String> = new
        .map(|f| {
            format!(
                "{} | {}\n    real:     {}\n    embedded: {}",
                f.at, f.place, f.real, f.embedded
            )
        })
        .collect();
    let idle = DIFFERENCES
        .iter()
        .filter(|row| !findings.iter().any(|finding| covers(row, finding)));
    let idle: Vec<String> = idle
        .map(|row| format!("{} | {} ({})", row.at, row.place, row.why))
        .collect();
    assert!(
        new.is_empty() && idle.is_empty(),
        "{} of {n_requests} requests differ in {} places:\n{}\nrows of differences.rs that nothing needs: {idle:#?}",
        findings.len(),
        new.len(),
        new.join("\n")
    );
}
