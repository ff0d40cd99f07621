//! Who may stand at the door: connections that have not yet shown who they are.
//!
//! Invariant: strangers never take a place that a client who has shown a token could need. There are at most so many of them,
//! and so many from one peer; who comes when the door is full is let in, and the oldest stranger of the peer that has the most
//! is sent away. A client that knows its token passes within milliseconds and is hardly ever the oldest.
//!
//! A burst of our own: a program on this machine may open a thousand connections at once. For those `crowded` says that it is
//! better to wait a moment, in which handshakes end by themselves.
//! Next: `server.rs`.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairlead_rt::CancellationToken;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// An IPv4 address, or an IPv6 network of 64 bits: what one machine can have many of counts as one.
fn peer_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        IpAddr::V4(ip) => IpAddr::V4(ip),
    }
}

/// The door of one server.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    // A mutex, since visitors leave from whichever task drops them; it is held for a few map operations, never across `await`.
    strangers: Arc<Mutex<Strangers>>,
    left: Arc<Notify>,
}

#[derive(Debug)]
struct Strangers {
    limit: usize,
    limit_per_peer: usize,
    next: u64,
    /// In the order of arrival.
    present: BTreeMap<u64, (IpAddr, CancellationToken)>,
    per_peer: HashMap<IpAddr, usize>,
}

/// A stranger. Dropped when the connection ends, or has shown a token.
#[derive(Debug)]
pub(crate) struct Visit {
    door: Door,
    number: u64,
    /// Fires when the place is needed for somebody else.
    pub(crate) sent_away: CancellationToken,
}

impl Door {
    pub(crate) fn new(limit: usize, limit_per_peer: usize) -> Self {
        Self {
            strangers: Arc::new(Mutex::new(Strangers {
                limit: limit.max(1),
                limit_per_peer: limit_per_peer.max(1),
                next: 0,
                present: BTreeMap::new(),
                per_peer: HashMap::new(),
            })),
            left: Arc::new(Notify::new()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Strangers> {
        self.strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether letting this peer in would send one of its own away.
    pub(crate) fn crowded(&self, ip: IpAddr) -> bool {
        let peer = peer_of(ip);
        self.lock().whom_to_send_away(peer) == Some(peer)
    }

    /// Wakes when somebody has left.
    pub(crate) fn left(&self) -> Notified<'_> {
        self.left.notified()
    }

    /// Lets somebody in, and sends somebody away if there is no room.
    pub(crate) fn enter(&self, ip: IpAddr) -> Visit {
        let peer = peer_of(ip);
        let sent_away = CancellationToken::new();
        let mut strangers = self.lock();
        strangers.make_room(peer);
        let number = strangers.next;
        strangers.next += 1;
        strangers.present.insert(number, (peer, sent_away.clone()));
        *strangers.per_peer.entry(peer).or_default() += 1;
        Visit {
            door: self.clone(),
            number,
            sent_away,
        }
    }
}

impl Strangers {
    /// The peer that loses its oldest stranger if `peer` is let in.
    fn whom_to_send_away(&self, peer: IpAddr) -> Option<IpAddr> {
        let own = self.per_peer.get(&peer).copied().unwrap_or(0);
        if own >= self.limit_per_peer {
            Some(peer)
        } else if self.present.len() >= self.limit {
            let heaviest = self.per_peer.values().max().copied().unwrap_or(0);
            let mut all = self.present.values();
            // Of several that have as many, the one that has waited longest.
            all.find(|(peer, _)| self.per_peer.get(peer) == Some(&heaviest))
                .map(|(peer, _)| *peer)
        } else {
            None
        }
    }

    fn make_room(&mut self, peer: IpAddr) {
        let Some(from) = self.whom_to_send_away(peer) else {
            return;
        };
        let oldest = self.present.iter().find(|(_, (peer, _))| *peer == from);
        if let Some(number) = oldest.map(|(number, _)| *number)
            && let Some(sent_away) = self.remove(number)
        {
            sent_away.cancel();
        }
    }

    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        let (peer, token) = self.present.remove(&number)?;
        if let Some(n) = self.per_peer.get_mut(&peer) {
            *n -= 1;
            if *n == 0 {
                self.per_peer.remove(&peer);
            }
        }
        Some(token)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.door.lock().remove(self.number);
        // One waits at most: the listener. A permit is kept for it if it has not begun to wait yet.
        self.door.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn a_peer_with_too_many_loses_its_own_oldest() {
        let door = Door::new(10, 2);
        let (a, b, other) = (door.enter(ip(1)), door.enter(ip(1)), door.enter(ip(2)));
        let c = door.enter(ip(1));
        assert!(a.sent_away.is_cancelled());
        assert!(!b.sent_away.is_cancelled() && !c.sent_away.is_cancelled());
        assert!(!other.sent_away.is_cancelled());
    }

    #[test]
    fn a_full_door_sends_away_who_has_most() {
        let door = Door::new(3, 3);
        let (lone, first, second) = (door.enter(ip(1)), door.enter(ip(2)), door.enter(ip(2)));
        let new = door.enter(ip(3));
        assert!(first.sent_away.is_cancelled());
        for stays in [lone, second, new] {
            assert!(!stays.sent_away.is_cancelled());
        }
    }

    #[test]
    fn one_network_of_ipv6_is_one_peer() {
        let of = |text: &str| peer_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), ip(1));
    }

    proptest! {
        #[test]
        fn there_are_never_too_many(steps in proptest::collection::vec((0u8..6, any::<bool>()), 1..200)) {
            let door = Door::new(8, 3);
            let mut visits: Vec<Visit> = Vec::new();
            for (peer, leave) in steps {
                if leave && !visits.is_empty() {
                    visits.remove(usize::from(peer) % visits.len());
                }
                let new = door.enter(ip(peer));
                prop_assert!(!new.sent_away.is_cancelled(), "who comes is let in");
                visits.push(new);
                let strangers = door.lock();
                prop_assert!(strangers.present.len() <= 8);
                prop_assert!(strangers.per_peer.values().all(|n| (1..=3).contains(n)));
                let sum: usize = strangers.per_peer.values().sum();
                prop_assert_eq!(sum, strangers.present.len());
                let present = visits.iter().filter(|visit| !visit.sent_away.is_cancelled()).count();
                prop_assert_eq!(present, strangers.present.len());
            }
        }
    }
}
