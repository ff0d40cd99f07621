//! A node dies: what clients notice.
//!
//! The owner's process is killed with SIGKILL and its link is cut at the switch, so that neither the
//! process nor its kernel can answer any more. Measured from outside, over both families at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Frontends, INTERFACE, Job, JobError};
use crate::clock;
use crate::traffic::connections::{Connections, Outcome, Talker};
use crate::traffic::dark::{Darkness, darkness};
use crate::traffic::probe::Probe;

/// How long a VIP may stay dark before the job counts as failed.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// Probes go on for so long after the first answer, so that a VIP that flickers is seen.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// What a failover looked like to the client.
#[derive(Debug, Clone)]
pub struct Failover {
    /// The node that died.
    pub victim: String,
    /// Time since the machine's start at which its link went.
    pub cut: Duration,
    /// UDP echoes, by VIP: this is *dark*.
    pub udp: BTreeMap<IpAddr, Darkness>,
    /// TCP connects, by VIP.
    pub tcp: BTreeMap<IpAddr, Darkness>,
    /// Connections on which the client talks.
    pub talking: Outcome,
    /// Connections on which only the server talks.
    pub listening: Outcome,
    /// None of those may break either: nothing on a load balancer is needed for them.
    pub returns_direct: bool,
}

impl Failover {
    /// The longest darkness over all VIPs.
    pub fn dark(&self) -> Duration {
        self.udp
            .values()
            .map(|d| d.longest)
            .max()
            .unwrap_or_default()
    }

    /// The longest gap between TCP connects that succeeded.
    pub fn dark_tcp(&self) -> Duration {
        self.tcp
            .values()
            .map(|d| d.longest)
            .max()
            .unwrap_or_default()
    }
}

impl Failover {
    /// What broke that must not, if anything did.
    pub fn failure(&self) -> Option<(String, String)> {
        let mut sets = vec![(&self.talking, "on which the client talks")];
        if self.returns_direct {
            sets.push((&self.listening, "on which only the server talks"));
        }
        let (Outcome { asked, broken, why }, of) = sets.into_iter().find(|(o, _)| o.broken > 0)?;
        let what = format!("{broken} of {asked} connections {of} broke");
        Some((what, format!("{why:?}")))
    }
}

impl Job {
    /// Kills `victim` and cuts its link `after` a while of load; `count` connections of each kind,
    /// divided over the VIPs, are open meanwhile.
    pub fn fail_over(
        &mut self,
        victim: &str,
        service: &Frontends,
        count: usize,
        after: Duration,
    ) -> Result<Failover, JobError> {
        let client = self.client()?;
        let mut sets = Vec::new();
        for talker in [Talker::Client, Talker::Server] {
            for (target, share) in service.divide(count) {
                sets.push((talker, Connections::open(&client, target, share, talker)?));
            }
        }
        let mut udp = BTreeMap::new();
        let mut tcp = BTreeMap::new();
        for target in service.tcp() {
            let echo = SocketAddr::new(target.ip(), service.udp_port);
            udp.insert(target.ip(), Probe::udp(&client, echo)?);
            tcp.insert(target.ip(), Probe::tcp(&client, target)?);
        }
        for (vip, probe) in &udp {
            if !probe.wait_answered_after(Duration::ZERO, Duration::from_secs(3)) {
                return Err(self.broken("UDP echoes are not answered", &vip.to_string()));
            }
        }
        clock::wait_until(clock::now() + after);
        self.kill_appliance(victim)?;
        self.set_link(victim, "down")?;
        let cut = clock::now();
        for (vip, probe) in &udp {
            if !probe.wait_answered_after(cut, BACK_WITHIN) {
                let why = format!("{vip} is dark for {} s", BACK_WITHIN.as_secs());
                return Err(self.broken(&format!("nobody takes over from {victim}"), &why));
            }
        }
        let mut outcomes = [Outcome::default(), Outcome::default()];
        for (talker, outcome) in ask_all(sets) {
            outcomes[usize::from(talker == Talker::Server)].add(outcome);
        }
        clock::wait_until(clock::now() + AFTERWARDS);
        let stop = |probes: BTreeMap<IpAddr, Probe>| {
            let stopped = probes
                .into_iter()
                .map(|(vip, p)| Ok((vip, darkness(&p.stop()?))));
            stopped.collect::<Result<BTreeMap<_, _>, JobError>>()
        };
        let [talking, listening] = outcomes;
        let (udp, tcp) = (stop(udp)?, stop(tcp)?);
        Ok(Failover {
            victim: victim.to_owned(),
            cut,
            udp,
            tcp,
            talking,
            listening,
            returns_direct: service.returns_direct,
        })
    }

    /// Gives `victim` its link back and starts its appliance again.
    pub fn restore(&mut self, victim: &str) -> Result<(), JobError> {
        self.since = clock::now();
        self.set_link(victim, "up")?;
        self.start_appliance(victim)
    }

    /// Sets the switch's end of the node's link.
    fn set_link(&self, node: &str, state: &str) -> Result<(), JobError> {
        let (switch, port) = self.lab.across(node, INTERFACE)?;
        self.lab
            .node(&switch)?
            .run(&["ip", "link", "set", &port, state])?;
        Ok(())
    }
}

/// Asks every set at the same time, so that none is given longer than another.
fn ask_all(sets: Vec<(Talker, Connections)>) -> Vec<(Talker, Outcome)> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = sets
            .into_iter()
            .map(|(talker, set)| (talker, scope.spawn(|| set.ask())))
            .collect();
        let finish = |(talker, thread): (Talker, std::thread::ScopedJoinHandle<'_, _>)| {
            (
                talker,
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            )
        };
        asked.into_iter().map(finish).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::NODES;

    fn of(talking: usize, listening: usize, returns_direct: bool) -> Failover {
        let outcome = |broken| Outcome {
            asked: 200,
            broken,
            ..Outcome::default()
        };
        Failover {
            victim: NODES[0].to_owned(),
            cut: Duration::ZERO,
            udp: BTreeMap::new(),
            tcp: BTreeMap::new(),
            talking: outcome(talking),
            listening: outcome(listening),
            returns_direct,
        }
    }

    #[test]
    fn who_only_listens_must_not_break_where_servers_answer_directly() {
        assert_eq!(of(0, 0, true).failure(), None);
        assert_eq!(of(0, 7, false).failure(), None);
        let what = |failover: Failover| failover.failure().map(|(what, _)| what);
        let listening = "7 of 200 connections on which only the server talks broke";
        assert_eq!(what(of(0, 7, true)).as_deref(), Some(listening));
        let talking = "1 of 200 connections on which the client talks broke";
        assert_eq!(what(of(1, 7, false)).as_deref(), Some(talking));
    }
}
