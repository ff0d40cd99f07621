//! What keeps a service from working as it says: data for conditions and `explain`.

use std::{fmt, net::SocketAddr};

use fairlead_model::{Frontend, ServiceName};

/// One finding about one service. Ordered, so that lists compare.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Whose.
    pub service: ServiceName,
    /// Why; condition reason, metric label and search key.
    pub reason: ProblemReason,
    /// Which frontend, if not all of the service's.
    pub frontend: Option<Frontend>,
    /// Which backend, if one.
    pub backend: Option<SocketAddr>,
    /// For people: what is wrong and what helps.
    pub message: String,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident: $blocks:literal;)+) => {
        /// Why a service does not work as it says.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ProblemReason { $($(#[$doc])* $name,)+ }

        impl ProblemReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// CamelCase word for conditions, metrics and the book.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// The frontend is not programmed (or not as asked), so its VIP must not be announced for it.
            pub const fn blocks_programming(self) -> bool {
                match self { $(Self::$name => $blocks,)+ }
            }
        }
    };
}

reasons! {
    /// The frontend table has no place for the key.
    VipTableFull: true;
    /// The flat Maglev array has no room.
    MaglevFull: true;
    /// The backend array has no room, or a frontend has more backends than a slot can name.
    BackendTableFull: true;
    /// No frontend or VIP record is left.
    FrontendTableFull: true;
    /// Another service has the same frontend.
    FrontendTaken: true;
    /// Only some clients may come in, which is not enforced: nobody is let in.
    SourceRangesNotEnforced: true;
    /// The table size asked for is too small or no prime; the next that fits is used.
    MaglevTableTooSmall: false;
    /// The protocol gets addresses and is not forwarded.
    ProtocolNotForwarded: false;
    /// Direct return cannot change the port: the backend is left out.
    TargetPortMismatch: false;
    /// Layer-2 direct return needs the backend on the link: it is left out.
    BackendOffLink: false;
    /// The backend's address belongs to this node: it is left out here.
    BackendOnLoadBalancer: false;
    /// The hardware address of the next hop is not known.
    NextHopUnresolved: false;
    /// The VIP is not announced where this backend is: its flows end with the node, or its replies need a route.
    BackendOffAnnouncingInterface: false;
    /// Encapsulation needs an address on the interface that leads to the backend: it is left out.
    NoSourceAddress: false;
    /// Two interfaces share a slot of the interface table: the backend is left out.
    InterfaceSlotTaken: false;
    /// A program on the node that owns the VIP tries to reach it.
    ClientOnOwner: false;
    /// No backend takes new flows.
    NoBackend: false;
    /// `externalTrafficPolicy: Local` is treated as `Cluster`.
    TrafficPolicyIgnored: false;
    /// `sessionAffinity: ClientIP` is ignored: each connection of a client chooses its own backend.
    SessionAffinityIgnored: false;
}

impl fmt::Display for ProblemReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.service, self.reason, self.message)
    }
}
