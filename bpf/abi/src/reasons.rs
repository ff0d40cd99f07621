//! Why a packet was not forwarded the ordinary way: one table, from which constants, metric labels, sentences and the docs page come.

macro_rules! reasons {
    ($($(#[$m:meta])* $name:ident = $n:literal, $label:literal, $sentence:literal, $who:literal;)+) => {
        $($(#[$m])* #[doc = $sentence] pub const $name: u32 = $n;)+
        /// Every reason, in the order of its number.
        pub const ALL: &[Reason] = &[$(Reason { number: $n, label: $label, sentence: $sentence, who: $who }),+];
    };
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Index in the per-CPU map `REASONS`.
    pub number: u32,
    /// CamelCase: metric label, search key in the book.
    pub label: &'static str,
    /// What happened, for people.
    pub sentence: &'static str,
    /// Who should act.
    pub who: &'static str,
}

/// Elements of the per-CPU map `REASONS`.
pub const N_REASONS: u32 = 64;

reasons! {
    NONE = 0, "None", "Not counted.", "nobody";
    NOT_OUR_MAC = 1, "NotOurMac", "The frame was flooded to us: its destination is another station.", "nobody";
    TRUNCATED = 2, "Truncated", "The headers end before the packet says so.", "the sender";
    UNKNOWN_PORT = 3, "UnknownPort", "The VIP has no frontend on this port and protocol.", "the client, or the Service's ports";
    NO_BACKEND = 4, "NoBackend", "The frontend has no backend that accepts flows.", "the Service's owner";
    NO_NEXT_HOP = 5, "NoNextHop", "The MAC address of the backend's next hop is not known.", "the network's operator";
    TOO_BIG = 6, "TooBig", "The packet does not fit the path after encapsulation; the sender was told the size.", "the sender's path MTU discovery";
    TOO_BIG_UNANSWERED = 7, "TooBigUnanswered", "The packet does not fit and the sender could not be told.", "the network's operator";
    FRAGMENT = 8, "Fragment", "A fragment whose first part was not seen here.", "the sender";
    ICMP_UNMATCHED = 9, "IcmpUnmatched", "An ICMP message to a VIP that belongs to no flow.", "nobody";
    SNAT_NO_PORT = 10, "SnatNoPort", "No free source port was found for the flow.", "raise the number of records or backends";
    SNAT_TABLE_FULL = 11, "SnatTableFull", "No room for the flow's record.", "raise the number of records";
    SNAT_NO_RECORD = 12, "SnatNoRecord", "A reply without a record; it was dropped.", "nobody: the flow ended or moved";
    SNAT_HANDED_OFF = 13, "SnatHandedOff", "A reply without a record was passed on to the VIP's other owner.", "nobody";
    FLOW_TABLE_FULL = 14, "FlowTableFull", "No room to remember a flow in transition; it follows the former table.", "raise the number of flow entries";
    TAIL_CALL_MISSED = 15, "TailCallMissed", "A program of the chain is missing.", "restart the agent";
    UNSUPPORTED_PROTOCOL = 16, "UnsupportedProtocol", "The VIP does not serve this protocol.", "the client";
    MALFORMED = 17, "Malformed", "The packet contradicts itself.", "the sender";
    ADJUST_FAILED = 18, "AdjustFailed", "The driver left no room for the outer header.", "the network's operator";
    L2_ANSWERED = 19, "L2Answered", "An ARP request or neighbour solicitation for a VIP was answered.", "nobody";
    L2_SILENT = 20, "L2Silent", "A request for a VIP was not answered because the deadline had passed and a candidate was heard since.", "nobody";
    HEARTBEAT_SEEN = 21, "HeartbeatSeen", "A peer's heartbeat passed by.", "nobody";
    DECAPSULATED = 22, "Decapsulated", "An encapsulated packet was unwrapped.", "nobody";
    DECAP_UNKNOWN_VIP = 23, "DecapUnknownVip", "An encapsulated packet for an address that is no VIP here.", "the backend's operator";
    DECAP_UNKNOWN_SENDER = 24, "DecapUnknownSender", "An encapsulated packet from a sender that is no load balancer of ours.", "the backend's operator";
    TTL_EXPIRED = 25, "TtlExpired", "The packet's time to live ended here.", "the sender";
    ICMP_FORWARDED = 26, "IcmpForwarded", "An ICMP error was passed to the flow it quotes.", "nobody";
    VLAN_MISMATCH = 27, "VlanMismatch", "A tagged packet whose backend is on another interface.", "the network's operator";
    ECHO_ANSWERED = 28, "EchoAnswered", "An ICMP echo request to a VIP was answered.", "nobody";
    TUNNEL_TOO_BIG = 29, "TunnelTooBig", "A router on the way to a backend takes smaller packets only; the client was told.", "nobody";
    TUNNEL_ERROR = 30, "TunnelError", "A router or server refused an encapsulated packet.", "the network's or the backend's operator";
}

#[cfg(test)]
mod tests {
    use super::{ALL, N_REASONS};

    #[test]
    fn numbers_are_the_positions_and_labels_are_unique() {
        for (i, reason) in ALL.iter().enumerate() {
            assert_eq!(reason.number as usize, i, "{}", reason.label);
            assert!(
                ALL.iter()
                    .filter(|other| other.label == reason.label)
                    .count()
                    == 1
            );
        }
        assert!(ALL.len() <= N_REASONS as usize);
    }
}
