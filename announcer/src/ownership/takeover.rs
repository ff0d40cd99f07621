//! Suspicion: a peer's heartbeats are missing. One of its VIPs is probed every 50 ms; the first silence lets each in his turn ask for all
//! of them; an answer means that the owner, or its kernel, lives, and nobody takes over.

use super::{
    Action, Engine,
    claims::Holder,
    group::{Phase, ProbeKind, Probing},
    peers::{Life, Suspicion},
    report::Why,
};
use crate::time::BootTime;

impl Engine {
    /// Follows up the suspicion of `slot`.
    pub(super) fn step_suspect(&mut self, slot: usize, now: BootTime, out: &mut Vec<Action>) {
        let Some(Life::Suspect(mut suspicion)) = self.peers[slot].as_ref().map(|p| p.life) else {
            return;
        };
        let Some(owned) = self.first_owned_by(slot) else {
            self.write_off(slot);
            return;
        };
        if suspicion.silent_at.is_some() {
            return;
        }
        if suspicion.is_answered && suspicion.sent > 0 {
            // This round proved life; the next one begins 50 ms after its start.
            suspicion.sent = 0;
            suspicion.next_at = suspicion.round_at + self.settings.suspect_probe;
        }
        if now >= suspicion.next_at {
            if suspicion.sent >= self.settings.probes {
                suspicion.silent_at = Some(now);
                self.is_dirty = true;
            } else {
                self.probe_suspect(slot, owned, &mut suspicion, now, out);
            }
        }
        if suspicion.silent_at.is_none() {
            self.wake_by(suspicion.next_at);
        }
        if let Some(peer) = self.peers[slot].as_mut() {
            peer.life = Life::Suspect(suspicion);
        }
    }

    fn probe_suspect(
        &mut self,
        slot: usize,
        owned: usize,
        suspicion: &mut Suspicion,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if suspicion.sent == 0 {
            suspicion.vip = u32::try_from(owned).ok();
            suspicion.round_at = now;
            suspicion.is_answered = false;
            if self.heard_at <= suspicion.since {
                self.ask_witnesses(now, out);
            }
        }
        let to = self.peers[slot]
            .as_ref()
            .filter(|_| suspicion.sent % 2 == 1)
            .map(|peer| peer.mac);
        if let Some(row) = suspicion.vip.and_then(|v| self.table.vips.get(v as usize)) {
            out.push(Action::Probe { vip: row.addr, to });
        }
        suspicion.sent += 1;
        suspicion.next_at = now + self.settings.probe_wait;
    }

    /// The lowest VIP of the groups that only `slot` claims to own.
    fn first_owned_by(&self, slot: usize) -> Option<usize> {
        let states = self.table.group_state.iter().enumerate();
        let mut owned = states.filter(|(_, state)| {
            let is_holder = state.holder.is_some_and(|h| usize::from(h.slot) == slot);
            is_holder && !matches!(state.phase, Phase::Owned | Phase::Offered { .. })
        });
        owned.find_map(|(group, _)| {
            let mut vips = self.table.vips_of(group);
            vips.find(|vip| self.table.claim(slot, *vip) > 0)
        })
    }

    /// A silent peer that owns nothing any more.
    fn write_off(&mut self, slot: usize) {
        self.table.drop_claims(slot, None);
        if let Some(peer) = self.peers[slot].as_mut() {
            peer.life = Life::Gone;
            peer.ask_again();
        }
        self.is_dirty = true;
    }

    /// An answer for `vip`, from the member in `slot` or from a stranger.
    pub(super) fn suspect_answered(&mut self, vip: usize, slot: Option<u8>) {
        for (at, peer) in self.peers.iter_mut().enumerate() {
            let Some(Life::Suspect(suspicion)) = peer.as_mut().map(|p| &mut p.life) else {
                continue;
            };
            let is_suspect = slot.is_some_and(|slot| usize::from(slot) == at);
            // A third peer that has just taken the address over says nothing about the suspect.
            let counts = is_suspect || slot.is_none();
            if counts && suspicion.vip.is_some_and(|probed| probed as usize == vip) {
                suspicion.is_answered = true;
            }
            if is_suspect && suspicion.silent_at.is_some() {
                suspicion.silent_at = None;
                suspicion.is_answered = true;
                suspicion.sent = suspicion.sent.max(1);
                self.is_dirty = true;
            }
        }
    }

    /// When this node may start to ask for a silent owner's group: k places behind the first, k × 100 ms later.
    pub(super) fn turn_after_suspect(
        &mut self,
        group: usize,
        holder: Holder,
    ) -> Option<(BootTime, ProbeKind)> {
        let suspect = self.peer(holder.slot)?;
        let Life::Suspect(suspicion) = suspect.life else {
            return None;
        };
        let node = suspect.node;
        self.explain(group, Why::Suspecting(node));
        let silent_at = suspicion.silent_at?;
        let kind = ProbeKind::Takeover { slot: holder.slot };
        let cached = self.table.group_state[group].start_at;
        if cached != BootTime::NEVER {
            return Some((cached, kind));
        }
        let rank = self.rank(group, Some(holder.slot), None, silent_at);
        let at = silent_at + self.settings.stagger * u32::from(rank);
        self.table.group_state[group].start_at = at;
        Some((at, kind))
    }

    /// Probing of a suspect's group: evidence counts from the suspicion, and a group whose only address has just been silent three
    /// times is not asked again.
    pub(super) fn takeover_probing(&self, group: usize, slot: u8, probing: Probing) -> Probing {
        let Some(Life::Suspect(suspicion)) = self.peer(slot).map(|peer| peer.life) else {
            return probing;
        };
        let mut vips = self.table.vips_of(group);
        let only = (vips.next(), vips.next());
        let is_probed =
            matches!(only, (Some(vip), None) if suspicion.vip == u32::try_from(vip).ok());
        let is_first = suspicion.silent_at == Some(probing.began);
        Probing {
            began: suspicion.since,
            sent: if is_probed && is_first {
                self.settings.probes
            } else {
                0
            },
            ..probing
        }
    }

    /// Whether the silence of `slot` may be acted upon: not while another living peer hears it.
    pub(super) fn takeover_reason(
        &self,
        slot: u8,
        probing: &Probing,
        now: BootTime,
    ) -> Result<Why, Why> {
        let Some(suspect) = self.peer(slot) else {
            return Ok(Why::First);
        };
        let witness = self.alive().find(|(_, peer)| peer.hears(suspect.member));
        if let Some((_, peer)) = witness {
            return Err(Why::StillHeard(peer.node));
        }
        Ok(Why::TookOver {
            from: suspect.node,
            silent: now.since(suspect.last_fresh),
            probes: probing.sent,
        })
    }
}
