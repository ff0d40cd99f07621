//! Who is alive: heartbeats that count, suspicion, and how long a returning node must wait.
//!
//! A heartbeat counts only if its sender lists us with a recent `seq` of ours. That is liveness in both directions and freshness at once: a
//! recorded message cannot name a number that we have just drawn.

use std::time::Duration;

use fairlead_model::MacAddr;

use super::{
    Action, Engine, RECENT_BEATS, Settings,
    claims::Assembly,
    order::{MemberId, NodeId},
    report::Why,
    table::MAX_PEERS,
};
use crate::{
    heartbeat::{Body, Header, Heard, HeardList, MAX_HEARD, Message, flags, heard_flags},
    time::BootTime,
};

/// This member where a slot is expected.
pub(super) const ME: u8 = u8::MAX;
/// How long an unverified or unsynchronised peer may hold us back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a peer stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Life {
    /// Authentic, but it has not yet shown that it hears us.
    Unverified,
    /// We hear each other.
    Alive,
    /// Its heartbeats are missing.
    Suspect(Suspicion),
    /// Missing, and it owns nothing.
    Gone,
}

/// What is known since the heartbeats are missing (`takeover`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspicion {
    /// Since when.
    pub since: BootTime,
    /// The VIP that is probed, as an index into the table.
    pub vip: Option<u32>,
    /// Probes of this round.
    pub sent: u8,
    /// When this round began.
    pub round_at: BootTime,
    /// When the next probe is due, or the last one's answer overdue.
    pub next_at: BootTime,
    /// This round's probe was answered.
    pub is_answered: bool,
    /// The first silence: takeover may begin, each in his turn.
    pub silent_at: Option<BootTime>,
}

/// One member of the segment.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Peer {
    pub member: MemberId,
    pub node: NodeId,
    pub mac: MacAddr,
    /// Of the latest header.
    pub flags: u8,
    pub boot: u32,
    pub seq: u32,
    /// `boot` has shown that it hears us.
    pub is_verified: bool,
    pub first_heard: BootTime,
    /// Latest authentic message.
    pub last_any: BootTime,
    /// Latest heartbeat that counts.
    pub last_fresh: BootTime,
    pub life: Life,
    pub unbroken_since: BootTime,
    pub relapses: u32,
    /// It would not give us groups yet.
    pub calls_us_unsettled: bool,
    /// Members that its latest beat lists as mutually heard.
    pub mutual: [MemberId; MAX_HEARD],
    pub n_mutual: usize,
    /// Version and digest of its claims, as announced; and the version that is known in full.
    pub version: u32,
    pub digest: u64,
    pub known_version: u32,
    pub unknown_since: BootTime,
    pub assembly: Assembly,
}

impl Peer {
    fn new(header: &Header, now: BootTime) -> Self {
        Self {
            member: header.member(),
            node: header.node,
            mac: header.mac,
            flags: header.flags,
            boot: header.boot,
            seq: header.seq,
            is_verified: false,
            first_heard: now,
            last_any: now,
            last_fresh: BootTime::ZERO,
            life: Life::Unverified,
            unbroken_since: now,
            relapses: 0,
            calls_us_unsettled: false,
            mutual: [MemberId::default(); MAX_HEARD],
            n_mutual: 0,
            version: 0,
            digest: 0,
            known_version: 0,
            unknown_since: now,
            assembly: Assembly::default(),
        }
    }

    pub(super) const fn is_alive(&self) -> bool {
        matches!(self.life, Life::Alive)
    }

    /// Whether its claims stand: it lives, or may live.
    pub(super) const fn may_own(&self) -> bool {
        matches!(self.life, Life::Alive | Life::Suspect(_))
    }

    pub(super) const fn is_leaving(&self) -> bool {
        self.flags & flags::LEAVING != 0
    }

    /// Whether it would be given groups: up long enough by its own word, or unbroken for 5 s, doubled at each relapse, by our own ears.
    pub(super) fn is_settled(&self, settings: &Settings, now: BootTime) -> bool {
        if !self.is_alive() || self.is_leaving() {
            return false;
        }
        if self.relapses == 0 && self.flags & flags::SETTLED != 0 {
            return true;
        }
        let doubled = settings.settle * (1 << self.relapses.saturating_sub(1).min(16));
        now.since(self.unbroken_since) >= doubled.min(settings.settle_max)
    }

    /// Its claims are known in full, or have been missing for so long that waiting helps nobody.
    fn is_synced(&self, now: BootTime) -> bool {
        self.version == self.known_version || now.since(self.unknown_since) > PATIENCE
    }

    /// Whether its latest beat lists `member` as mutually heard.
    pub(super) fn hears(&self, member: MemberId) -> bool {
        self.mutual[..self.n_mutual].contains(&member)
    }

    /// Forgets that its claims are known, so that it sends them again.
    pub(super) fn ask_again(&mut self) {
        self.known_version = 0;
        self.assembly = Assembly::default();
    }

    /// Gives it a fresh chance after our own interface was down.
    pub(super) fn listen_again(&mut self, now: BootTime) {
        if matches!(self.life, Life::Alive | Life::Suspect(_)) {
            self.life = Life::Alive;
            self.last_fresh = now;
            self.unbroken_since = now;
        }
    }

    /// We were not listening for `late`.
    pub(super) fn forgive(&mut self, late: Duration, now: BootTime) {
        self.last_fresh = (self.last_fresh + late).min(now);
    }

    /// Counts the relapse of a peer that comes back.
    fn relapse(&mut self, settings: &Settings, now: BootTime) {
        if now.since(self.unbroken_since) > settings.settle_max * 2 {
            self.relapses = 0;
        }
        self.relapses += 1;
    }

    fn beat_counts(&mut self, settings: &Settings, now: BootTime) -> bool {
        self.last_fresh = now;
        match self.life {
            Life::Alive => return false,
            Life::Unverified => {}
            Life::Suspect(_) | Life::Gone => self.relapse(settings, now),
        }
        self.life = Life::Alive;
        self.unbroken_since = now;
        true
    }

    fn list(&mut self, heard: &HeardList<'_>) {
        self.n_mutual = 0;
        for entry in heard.iter().filter(|e| e.flags & heard_flags::MUTUAL != 0) {
            if let Some(slot) = self.mutual.get_mut(self.n_mutual) {
                *slot = entry.member;
                self.n_mutual += 1;
            }
        }
    }
}

impl Engine {
    /// A verified datagram arrived.
    pub fn on_message(&mut self, message: &Message<'_>, now: BootTime, out: &mut Vec<Action>) {
        let header = &message.header;
        let member = header.member();
        if member == self.member {
            // Our own, looped back by the segment, unless the boot is another's.
            if header.boot != self.me.boot {
                self.twin = Some(header.mac);
            }
            return;
        }
        self.heard_at = now;
        self.wake = self.wake.min(now);
        let Some(slot) = self.slot_for(header, now, out) else {
            return;
        };
        let own_entry = match &message.body {
            Body::Beat(heard) => heard.iter().find(|entry| entry.member == self.member),
            Body::Claims { .. } => None,
        };
        let is_fresh = own_entry.is_some_and(|entry| self.is_recent(entry.echo));
        if !self.accept(slot, header, is_fresh, now, out) {
            return;
        }
        match &message.body {
            Body::Beat(heard) => self.on_beat(slot, header, heard, own_entry, is_fresh, now),
            Body::Claims {
                chunk,
                n_chunks,
                claims,
            } => self.on_claims(slot, header, (*chunk, *n_chunks), *claims),
        }
    }

    fn on_beat(
        &mut self,
        slot: usize,
        header: &Header,
        heard: &HeardList<'_>,
        own_entry: Option<Heard>,
        is_fresh: bool,
        now: BootTime,
    ) {
        let resend_after = self.settings.beat * 3 / 2;
        let (claims_version, sent_at) = (self.claims_version, self.claims_sent_at);
        let has_claims = self.claims_digest != 0;
        let Some(peer) = self.peers[slot].as_mut() else {
            return;
        };
        peer.list(heard);
        let flags_before = std::mem::replace(&mut peer.flags, header.flags);
        if is_fresh && peer.beat_counts(&self.settings, now) {
            self.is_dirty = true;
        }
        if flags_before != header.flags {
            self.is_dirty = true;
        }
        if let Some(entry) = own_entry {
            peer.calls_us_unsettled = entry.flags & heard_flags::SETTLED == 0;
            // On mismatch the list goes out again, not faster than answers can come back.
            let is_behind = has_claims && entry.claims_version != claims_version;
            if is_behind && now >= sent_at + resend_after {
                self.claims_wanted = true;
            }
        }
        if peer.version != header.claims_version {
            peer.version = header.claims_version;
            peer.unknown_since = now;
        }
        peer.digest = header.claims_digest;
        if header.claims_digest == 0 && peer.known_version != header.claims_version {
            peer.known_version = header.claims_version;
            self.table.drop_claims(slot, None);
            self.is_dirty = true;
        }
    }

    /// Decides whether a message belongs to the sender's present run and is not a repetition.
    fn accept(
        &mut self,
        slot: usize,
        header: &Header,
        is_fresh: bool,
        now: BootTime,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(peer) = self.peers[slot].as_mut() else {
            return false;
        };
        let is_newer = header.seq.wrapping_sub(peer.seq).wrapping_sub(1) < u32::MAX / 2;
        let is_same_run = peer.boot == header.boot;
        if peer.is_verified && is_same_run && !is_newer {
            return false;
        }
        if peer.is_verified && !is_same_run && !is_fresh {
            return false;
        }
        let is_restart = peer.is_verified && !is_same_run;
        if is_fresh && (is_restart || !peer.is_verified) {
            peer.is_verified = true;
            peer.known_version = 0;
            peer.unknown_since = now;
            peer.assembly = Assembly::default();
            self.is_dirty = true;
            if is_restart && peer.is_alive() {
                peer.relapse(&self.settings, now);
                peer.unbroken_since = now;
            }
        }
        peer.boot = header.boot;
        peer.seq = header.seq;
        peer.last_any = now;
        if peer.mac != header.mac {
            let slot = u8::try_from(slot).unwrap_or(ME);
            out.push(Action::NoPeer {
                slot,
                mac: peer.mac,
            });
            out.push(Action::Peer {
                slot,
                mac: header.mac,
            });
            peer.mac = header.mac;
        }
        peer.is_verified
    }

    /// The slot of a member; a new one takes a free slot, or that of the member that has been away longest.
    fn slot_for(&mut self, header: &Header, now: BootTime, out: &mut Vec<Action>) -> Option<usize> {
        let member = header.member();
        let known = |p: &Option<Peer>| p.as_ref().is_some_and(|p| p.member == member);
        if let Some(slot) = self.peers.iter().position(known) {
            return Some(slot);
        }
        let slot = self.peers.iter().position(Option::is_none).or_else(|| {
            let idle = self.peers.iter().enumerate().filter_map(|(slot, peer)| {
                let peer = peer.as_ref()?;
                let is_idle = matches!(peer.life, Life::Gone | Life::Unverified);
                (is_idle && now.since(peer.last_any) > PATIENCE).then_some((peer.last_any, slot))
            });
            idle.min().map(|(_, slot)| slot)
        })?;
        if let Some(former) = self.peers[slot].take() {
            self.table.drop_claims(slot, None);
            out.push(Action::NoPeer {
                slot: u8::try_from(slot).unwrap_or(ME),
                mac: former.mac,
            });
        }
        self.peers[slot] = Some(Peer::new(header, now));
        out.push(Action::Peer {
            slot: u8::try_from(slot).unwrap_or(ME),
            mac: header.mac,
        });
        self.is_dirty = true;
        Some(slot)
    }

    /// Missing heartbeats become suspicions, and suspicions are followed up.
    pub(super) fn step_peers(&mut self, now: BootTime, out: &mut Vec<Action>) {
        let tolerated = self.settings.beat * self.settings.missing + self.settings.grace;
        for slot in 0..MAX_PEERS {
            let Some(peer) = self.peers[slot].as_mut() else {
                continue;
            };
            match peer.life {
                Life::Alive => {
                    let due = peer.last_fresh + tolerated;
                    if now < due {
                        self.wake_by(due);
                        continue;
                    }
                    peer.life = Life::Suspect(Suspicion {
                        since: now,
                        vip: None,
                        sent: 0,
                        round_at: now,
                        next_at: now,
                        is_answered: false,
                        silent_at: None,
                    });
                    self.is_dirty = true;
                    self.step_suspect(slot, now, out);
                }
                Life::Suspect(_) => self.step_suspect(slot, now, out),
                Life::Unverified | Life::Gone => {}
            }
        }
    }

    /// Whether an echoed number is one of our last second's.
    fn is_recent(&self, echo: u32) -> bool {
        let oldest = self.recent[0];
        echo.wrapping_sub(oldest) <= self.seq.wrapping_sub(oldest)
    }

    /// The header of a beat; draws its `seq`.
    pub fn beat_header(&mut self, now: BootTime) -> Header {
        let header = self.claims_header(now);
        // What peers echo is compared with the beats of the last second.
        self.recent.copy_within(1..RECENT_BEATS, 0);
        self.recent[RECENT_BEATS - 1] = header.seq;
        header
    }

    /// The header of a part of the claim list; draws its `seq`.
    pub fn claims_header(&mut self, now: BootTime) -> Header {
        self.seq = self.seq.wrapping_add(1);
        let mut flags = 0;
        if self.is_settled(now) {
            flags |= flags::SETTLED;
        }
        if self.leave_until.is_some() {
            flags |= flags::LEAVING;
        }
        if !self.gateways.is_empty() {
            flags |= if self.has_lost_gateway(now) {
                flags::GATEWAY_LOST
            } else if self.gateway_seen > self.gateway_since {
                flags::GATEWAY_OK
            } else {
                0
            };
        }
        Header {
            flags,
            node: self.me.node,
            ifindex: self.me.ifindex,
            boot: self.me.boot,
            seq: self.seq,
            mac: self.me.mac,
            claims_version: self.claims_version,
            claims_digest: self.claims_digest,
        }
    }

    /// Whom this member hears, for the beat.
    pub fn heard(&self, now: BootTime) -> impl Iterator<Item = Heard> + '_ {
        let tolerated = self.settings.beat * self.settings.missing + self.settings.grace;
        let peers = self.peers.iter().flatten();
        peers
            .filter(move |peer| now.since(peer.last_any) <= tolerated)
            .map(move |peer| {
                let mutual = if peer.is_alive() {
                    heard_flags::MUTUAL
                } else {
                    0
                };
                let settled = if peer.is_settled(&self.settings, now) {
                    heard_flags::SETTLED
                } else {
                    0
                };
                Heard {
                    member: peer.member,
                    echo: peer.seq,
                    claims_version: peer.known_version,
                    flags: mutual | settled,
                }
            })
    }

    /// Peers that we hear and that hear us.
    pub(super) fn alive(&self) -> impl Iterator<Item = (usize, &Peer)> {
        let peers = self.peers.iter().enumerate();
        peers.filter_map(|(slot, peer)| Some((slot, peer.as_ref().filter(|p| p.is_alive())?)))
    }

    pub(super) fn peer(&self, slot: u8) -> Option<&Peer> {
        self.peers.get(usize::from(slot))?.as_ref()
    }

    /// The slot of a hardware address.
    pub(super) fn slot_of(&self, mac: MacAddr) -> Option<u8> {
        let at = self
            .peers
            .iter()
            .position(|p| p.as_ref().is_some_and(|p| p.mac == mac))?;
        u8::try_from(at).ok()
    }

    /// Whether this member may be given groups by others who are.
    pub(super) fn is_settled(&self, now: BootTime) -> bool {
        let is_doubted = self
            .alive()
            .any(|(_, p)| p.calls_us_unsettled && p.is_settled(&self.settings, now));
        now.since(self.up_since) >= self.settings.settle && !is_doubted
    }

    /// Why nothing that nobody owns may be taken yet, if so.
    pub(super) fn must_wait(&self, now: BootTime) -> Option<Why> {
        if now < self.up_since + self.settings.listen {
            return Some(Why::Listening);
        }
        let tolerated = self.settings.beat * self.settings.missing;
        let is_behind = self.peers.iter().flatten().any(|peer| match peer.life {
            Life::Alive => !peer.is_synced(now),
            Life::Unverified => {
                now.since(peer.last_any) <= tolerated && now.since(peer.first_heard) <= PATIENCE
            }
            Life::Suspect(_) | Life::Gone => false,
        });
        is_behind.then_some(Why::Unsynced)
    }
}
