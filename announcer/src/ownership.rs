//! Who answers for which addresses on one segment: the sans-IO engine.
//!
//! One [`Engine`] per announcing interface. What was heard goes in ([`Engine::on_message`], [`Engine::on_frame`], [`Engine::on_link`]), time
//! goes in with [`Engine::tick`], and [`Action`]s come out; the same inputs give the same actions (style.md I9). The caller ticks after every
//! batch of inputs and at [`Engine::wake_at`], having read its sockets first, so that a late tick judges nobody by its own lateness.
//!
//! Invariants: an address is answered only under a claim; a claim is made only after silence on the wire, an offer by its owner, or the
//! adoption of entries that still answer (style.md I4); nothing is announced that the datapath does not serve (I1). Steady state allocates nothing.
//!
//! Read [`order`] for who comes first, [`table`] for what may be owned, then `peers` (who is alive), `takeover` (silence), `probing` (asking), `group` (one
//! ownership group's life) and `claims` (what peers say they own).

use std::{net::IpAddr, time::Duration};

use fairlead_model::MacAddr;

use crate::time::BootTime;

mod claims;
mod group;
mod handover;
pub mod order;
mod peers;
mod placement;
mod probing;
pub mod report;
pub mod table;
mod takeover;

use order::{MemberId, NodeId};
use peers::Peer;
pub use report::{GroupReport, PeerReport, State, VipReport, Why};
pub use table::{GroupSpec, Table};

/// What an owner does when a stranger claims its address.
///
/// # Source
/// RFC 5227 2.4: (c), (b) and (a).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Defence {
    /// Goes on and announces again, at most once a second: an address of a Service is not given up to whoever shouts.
    #[default]
    Defend,
    /// Announces again once; lets go if the stranger does not give way.
    BackOff,
    /// Lets go at once.
    Stop,
}

/// Timers, and what is left to choice. The defaults are the design's.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Between heartbeats.
    pub beat: Duration,
    /// Missing heartbeats that make a suspicion.
    pub missing: u32,
    /// Allowance for the sender's scheduling when heartbeats are counted.
    pub grace: Duration,
    /// Between probes of one VIP of a suspect.
    pub suspect_probe: Duration,
    /// Probes without an answer that are silence.
    pub probes: u8,
    /// How long a probe's answer is waited for.
    pub probe_wait: Duration,
    /// Each place in the order starts this much later.
    pub stagger: Duration,
    /// Probes before the first use of an address (RFC 5227: 3).
    pub dad_probes: u8,
    /// Between them (RFC 5227: 1 to 2 s; here 100 ms).
    pub dad_wait: Duration,
    /// How far ahead of a heartbeat the deadline lies.
    pub deadline: Duration,
    /// Unbroken heartbeats before a returning node is given anything.
    pub settle: Duration,
    /// Most that this doubles to.
    pub settle_max: Duration,
    /// Listening after start and after carrier came back.
    pub listen: Duration,
    /// How long the target of an offer may take.
    pub offer_wait: Duration,
    /// When an address that a stranger held is probed again.
    pub conflict_retry: Duration,
    /// Repeats of an announcement, counted from the acquisition.
    pub announce: [Duration; 4],
    /// Between questions to the gateway.
    pub gateway_ask: Duration,
    /// Silence of the gateway that makes it lost.
    pub gateway_lost: Duration,
    /// How long a clean stop waits for its successors.
    pub leave_wait: Duration,
    /// When a stranger claims what we own.
    pub defence: Defence,
    /// An owner gives a group back to the member that comes first for it, once that is settled and has room. Without, only what balance
    /// needs moves.
    pub failback: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            beat: ms(50),
            missing: 3,
            grace: ms(5),
            suspect_probe: ms(50),
            probes: 3,
            probe_wait: ms(20),
            stagger: ms(100),
            dad_probes: 3,
            dad_wait: ms(100),
            deadline: ms(3_000),
            settle: ms(5_000),
            settle_max: ms(300_000),
            listen: ms(300),
            offer_wait: ms(500),
            conflict_retry: ms(10_000),
            announce: [ms(0), ms(50), ms(200), ms(1_000)],
            gateway_ask: ms(1_000),
            gateway_lost: ms(3_500),
            leave_wait: ms(1_000),
            defence: Defence::Defend,
            failback: false,
        }
    }
}

/// This member.
#[derive(Debug, Clone, Copy)]
pub struct Me {
    /// The node.
    pub node: NodeId,
    /// Its announcing interface.
    pub ifindex: u32,
    /// That interface's hardware address.
    pub mac: MacAddr,
    /// Random per start.
    pub boot: u32,
    /// Random per start: the first `seq`.
    pub seq: u32,
}

impl Me {
    const fn member(&self) -> MemberId {
        MemberId::new(self.node, self.ifindex)
    }
}

/// What the kernel holds for this interface when the engine starts.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The deadline cell's deadline.
    pub deadline: BootTime,
    /// The deadline cell's epoch.
    pub cell_epoch: u64,
    /// Addresses whose entries still answer (`logic::l2::may_answer`), with the epoch of their claim.
    pub answering: Vec<(IpAddr, u64)>,
}

/// A frame of another station, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Its sender's hardware address.
    pub mac: MacAddr,
    /// The address that the sender says it has (ARP sender, advertised target).
    pub claims: Option<IpAddr>,
    /// The address whose use the sender is about to begin (ARP probe, NS from the unspecified address).
    pub probes: Option<IpAddr>,
}

/// What the caller shall do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send [`Engine::beat_header`] and [`Engine::heard`] as a beat.
    SendBeat,
    /// Send [`Engine::claims`] in chunks.
    SendClaims,
    /// Ask for an address: ARP probe or neighbour solicitation, to everybody or to one station.
    Probe {
        /// The address.
        vip: IpAddr,
        /// One station, or everybody.
        to: Option<MacAddr>,
    },
    /// Ask gateway, neighbours and peers, so that a live segment shows itself.
    AskWitnesses,
    /// Write the responder entry of an address.
    Program {
        /// The address.
        vip: IpAddr,
        /// Epoch of the claim.
        epoch: u64,
        /// Epoch of the deadline cell.
        cell_epoch: u64,
        /// Peer slots that could own the address instead.
        candidates: u64,
    },
    /// Delete the responder entry of an address.
    Unprogram {
        /// The address.
        vip: IpAddr,
    },
    /// Send gratuitous ARP or an unsolicited advertisement.
    Announce {
        /// The address.
        vip: IpAddr,
    },
    /// Write the deadline cell, epoch first.
    Renew {
        /// Entries answer until then.
        deadline: BootTime,
        /// Entries of another epoch are silent.
        cell_epoch: u64,
    },
    /// Let the programs recognise a peer's heartbeats.
    Peer {
        /// Its slot.
        slot: u8,
        /// Its hardware address.
        mac: MacAddr,
    },
    /// Forget what the programs know of a slot.
    NoPeer {
        /// Its slot.
        slot: u8,
        /// The hardware address that it had.
        mac: MacAddr,
    },
}

/// Beats whose `seq` still counts as recent when echoed: about a second.
const RECENT_BEATS: usize = 20;

/// Why a group cannot be moved on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// No group has the address here.
    #[error("no policy has this node announce the address")]
    Unknown,
    /// Only the owner can give it.
    #[error("this node does not own it: ask the agent of the node that does")]
    NotOwner,
    /// The target may not own it.
    #[error(
        "the node may not own it: not selected by a policy, excluded, or without a local backend"
    )]
    NotEligible,
    /// The target is not heard.
    #[error("no heartbeat of the node arrives on the announcing interface")]
    NotHeard,
}

impl MoveError {
    /// The closed word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "UnknownAddress",
            Self::NotOwner => "NotOwner",
            Self::NotEligible => "NotEligible",
            Self::NotHeard => "NotHeard",
        }
    }
}

/// The engine of one segment.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about the segment and about what is to be sent"
)]
pub struct Engine {
    settings: Settings,
    me: Me,
    member: MemberId,
    table: Box<Table>,
    peers: Vec<Option<Peer>>,
    seq: u32,
    recent: [u32; RECENT_BEATS],
    claims_version: u32,
    claims_digest: u64,
    claims_changed: bool,
    claims_sent_at: BootTime,
    claims_wanted: bool,
    deadline: BootTime,
    cell_epoch: u64,
    /// The start or the last return of carrier or control: settledness counts from here.
    up_since: BootTime,
    /// When a frame of another station arrived last.
    heard_at: BootTime,
    /// When the segment may be asked for a sign of life again.
    witnesses_at: BootTime,
    has_carrier: bool,
    gateways: Vec<IpAddr>,
    gateway_seen: BootTime,
    gateway_asked: BootTime,
    gateway_since: BootTime,
    leave_until: Option<BootTime>,
    rebalance_at: BootTime,
    beat_at: BootTime,
    wake: BootTime,
    is_dirty: bool,
    /// The kernel still answers for what a former process owned, and we have not asked yet whether we may go on.
    is_adopting: bool,
    twin: Option<MacAddr>,
}

impl Engine {
    /// Begins at `now`, listening. What the kernel still answers for is claimed at once if its deadline lies ahead, else after a probe.
    pub fn new(settings: Settings, me: Me, found: &Found, now: BootTime) -> Self {
        let specs: Vec<GroupSpec> = found
            .answering
            .iter()
            .map(|(vip, _)| GroupSpec {
                vips: vec![(*vip, true)],
                eligible: vec![me.node],
                weights: Vec::new(),
                lease_holder: None,
            })
            .collect();
        let mut engine = Self {
            member: me.member(),
            table: Box::new(Table::new(&specs)),
            peers: (0..table::MAX_PEERS).map(|_| None).collect(),
            seq: me.seq,
            recent: [me.seq; RECENT_BEATS],
            claims_version: 1,
            claims_digest: 0,
            claims_changed: true,
            claims_sent_at: BootTime::ZERO,
            claims_wanted: false,
            deadline: found.deadline,
            cell_epoch: found.cell_epoch,
            up_since: now,
            heard_at: BootTime::ZERO,
            witnesses_at: BootTime::ZERO,
            has_carrier: true,
            gateways: Vec::new(),
            gateway_seen: now,
            gateway_asked: BootTime::ZERO,
            gateway_since: now,
            leave_until: None,
            rebalance_at: now + settings.settle,
            beat_at: now,
            wake: now,
            is_dirty: true,
            is_adopting: false,
            twin: None,
            settings,
            me,
        };
        let is_expired = found.deadline < now;
        for (vip, epoch) in &found.answering {
            engine.adopt(*vip, *epoch, is_expired, now);
        }
        engine.is_adopting = is_expired && !found.answering.is_empty();
        engine
    }

    /// The timers in force.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// When [`Engine::tick`] has something to do even if nothing arrives.
    pub const fn wake_at(&self) -> BootTime {
        self.wake
    }

    /// Replaces what may be owned; returns the former table, for the caller to drop elsewhere.
    pub fn install(
        &mut self,
        mut table: Box<Table>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) -> Box<Table> {
        let has_new = table.carry(&self.table, now);
        for (vip, row) in self.table.vips.iter().enumerate() {
            if self.table.vip_state[vip].answering && table.find(row.addr).is_none() {
                out.push(Action::Unprogram { vip: row.addr });
                self.claims_changed = true;
            }
        }
        std::mem::swap(&mut self.table, &mut table);
        if has_new {
            // Claims to addresses that the former table did not have were not kept: ask for the lists again.
            for peer in self.peers.iter_mut().flatten() {
                peer.ask_again();
            }
        }
        self.is_dirty = true;
        self.wake = now;
        table
    }

    /// Carrier came or went. Its loss releases everything at once: this node can neither be heard nor reached here.
    pub fn on_link(&mut self, is_up: bool, now: BootTime, out: &mut Vec<Action>) {
        if self.has_carrier == is_up {
            return;
        }
        self.has_carrier = is_up;
        self.is_dirty = true;
        self.wake = now;
        if is_up {
            self.up_since = now;
            self.gateway_seen = now;
            self.gateway_since = now;
            for peer in self.peers.iter_mut().flatten() {
                peer.listen_again(now);
            }
            return;
        }
        for group in 0..self.table.groups.len() {
            self.release(group, Why::CarrierLost, None, now, out);
        }
    }

    /// The default gateways behind this interface; empty = none, which is no fault.
    pub fn set_gateways(&mut self, gateways: &[IpAddr], now: BootTime) {
        if self.gateways != gateways {
            self.gateways.clear();
            self.gateways.extend_from_slice(gateways);
            self.gateway_seen = now;
            self.gateway_since = now;
        }
    }

    /// The hardware address of the interface changed.
    pub fn set_mac(&mut self, mac: MacAddr, now: BootTime) {
        if self.me.mac != mac {
            self.me.mac = mac;
            for state in &mut self.table.group_state {
                state.reprogram();
                // Neighbours hold the former one: they are told as after an acquisition, entries first.
                state.announce_next = 0;
                state.announce_from = now;
            }
            // Peers must know the address for ours before they see it answer.
            self.beat_at = now;
            self.wake = now;
        }
    }

    /// Hands everything over to its successors; done when [`Engine::has_left`].
    pub fn leave(&mut self, now: BootTime) {
        if self.leave_until.is_none() {
            self.leave_until = Some(now + self.settings.leave_wait);
            self.beat_at = now;
            self.wake = now;
            self.is_dirty = true;
        }
    }

    /// Offers a group that this node owns to another one, on request; balance and failback leave it there until its owner is gone.
    ///
    /// # Errors
    /// What is in the way.
    pub fn move_to(&mut self, vip: IpAddr, node: NodeId, now: BootTime) -> Result<(), MoveError> {
        let vip = self.table.find(vip).ok_or(MoveError::Unknown)?;
        let group = self.table.vips[vip].group as usize;
        let state = &self.table.group_state[group];
        if !matches!(
            state.phase,
            group::Phase::Owned | group::Phase::Offered { .. }
        ) {
            return Err(MoveError::NotOwner);
        }
        if node == self.me.node {
            self.table.group_state[group].is_pinned = true;
            return Ok(());
        }
        if !self.table.is_eligible(group, node) {
            return Err(MoveError::NotEligible);
        }
        let is_target = |peer: &&Peer| peer.node == node && !peer.is_leaving();
        let to = self.alive().map(|(_, peer)| peer).find(is_target);
        let to = to.map(|peer| peer.member).ok_or(MoveError::NotHeard)?;
        self.table.group_state[group].is_pinned = true;
        self.offer(group, to, now);
        self.wake = now;
        Ok(())
    }

    /// Whether a node that leaves has nothing left that a successor would take. What nobody takes goes on being answered by the kernel.
    pub fn has_left(&self, now: BootTime) -> bool {
        self.leave_until.is_some_and(|until| {
            let waits = |state: &group::GroupState| {
                matches!(
                    state.phase,
                    group::Phase::Owned | group::Phase::Offered { .. }
                )
            };
            until <= now
                || !self.table.group_state.iter().any(waits)
                || !self.alive().any(|(_, peer)| !peer.is_leaving())
        })
    }

    /// Somebody else heartbeats in this member's name (two nodes of one name): his hardware address.
    pub const fn twin(&self) -> Option<MacAddr> {
        self.twin
    }

    /// Does everything that is due. `computed` was read before `now`: the new deadline counts from it, the old one is checked against `now`.
    /// Without `may_renew` (the control side is stuck) neither heartbeat nor deadline is renewed, and peers take over in time.
    pub fn tick(
        &mut self,
        computed: BootTime,
        now: BootTime,
        may_renew: bool,
        out: &mut Vec<Action>,
    ) {
        self.forgive_lateness(now);
        self.wake = BootTime::NEVER;
        if may_renew && self.has_carrier {
            self.check_deadline(now, out);
        }
        if self.has_carrier {
            self.step_peers(now, out);
            self.step_gateway(now, out);
        }
        self.refresh(now, out);
        for group in 0..self.table.groups.len() {
            self.step_group(group, now, out);
        }
        self.rebalance(now);
        self.refresh(now, out);
        self.publish(computed, now, may_renew, out);
    }

    /// Sets the next wake-up no later than `at`.
    fn wake_by(&mut self, at: BootTime) {
        self.wake = self.wake.min(at);
    }

    /// A thread that was not scheduled has not heard its peers: what it missed for that reason does not count as silence. One that was
    /// away for so long that peers suspect it listens again before it takes anything.
    fn forgive_lateness(&mut self, now: BootTime) {
        let late = now.since(self.wake);
        if late > self.settings.beat * self.settings.missing {
            self.up_since = now;
        }
        if late > self.settings.beat {
            for peer in self.peers.iter_mut().flatten() {
                peer.forgive(late, now);
            }
        }
    }

    /// An expired deadline is never renewed: the entries fall silent for good, and what they answered is asked for anew.
    fn check_deadline(&mut self, now: BootTime, out: &mut Vec<Action>) {
        if self.is_adopting || self.deadline >= now || self.deadline == BootTime::ZERO {
            return;
        }
        self.cell_epoch += 1;
        for group in 0..self.table.groups.len() {
            self.expire(group, now, out);
        }
    }

    /// Heartbeat, deadline and claims, when due.
    fn publish(
        &mut self,
        computed: BootTime,
        now: BootTime,
        may_renew: bool,
        out: &mut Vec<Action>,
    ) {
        if self.claims_changed {
            self.claims_changed = false;
            self.update_digest();
        }
        let may_send = may_renew && self.has_carrier;
        if may_send && self.claims_wanted {
            self.claims_wanted = false;
            self.claims_sent_at = now;
            out.push(Action::SendClaims);
        }
        if now >= self.beat_at {
            if may_send {
                out.push(Action::SendBeat);
                if !self.is_adopting {
                    self.deadline = computed + self.settings.deadline;
                    out.push(Action::Renew {
                        deadline: self.deadline,
                        cell_epoch: self.cell_epoch,
                    });
                }
            }
            let next = self.beat_at + self.settings.beat;
            self.beat_at = if next > now {
                next
            } else {
                now + self.settings.beat
            };
        }
        self.wake_by(self.beat_at);
    }

    fn step_gateway(&mut self, now: BootTime, out: &mut Vec<Action>) {
        if self.gateways.is_empty() {
            return;
        }
        if now >= self.gateway_asked + self.settings.gateway_ask {
            self.gateway_asked = now;
            out.extend(self.gateways.iter().map(|vip| Action::Probe {
                vip: *vip,
                to: None,
            }));
        }
        self.wake_by(self.gateway_asked + self.settings.gateway_ask);
    }

    /// Whether the loss of the gateway is old enough for peers to have noticed theirs: handing over to one that is about to lose it too
    /// would move everything for nothing.
    fn must_leave_gateway(&self, now: BootTime) -> bool {
        let noticed = self.settings.gateway_lost + self.settings.gateway_ask * 3 / 2;
        !self.gateways.is_empty() && now.since(self.gateway_seen) > noticed
    }

    /// Whether a gateway is configured here and has been silent.
    fn has_lost_gateway(&self, now: BootTime) -> bool {
        !self.gateways.is_empty() && now.since(self.gateway_seen) > self.settings.gateway_lost
    }

    /// A frame of another station arrived on the interface.
    pub fn on_frame(&mut self, frame: &Frame, now: BootTime, out: &mut Vec<Action>) {
        if frame.mac == self.me.mac || frame.mac == MacAddr::default() {
            return;
        }
        self.heard_at = now;
        self.wake = self.wake.min(now);
        if let Some(addr) = frame.claims {
            if self.gateways.contains(&addr) {
                self.gateway_seen = now;
            }
            if let Some(vip) = self.table.find(addr) {
                self.on_answer(vip, frame.mac, now, out);
            }
        }
        if let Some(vip) = frame.probes.and_then(|addr| self.table.find(addr)) {
            self.on_prober(vip, frame.mac, now);
        }
    }
}

#[cfg(test)]
mod tests;
