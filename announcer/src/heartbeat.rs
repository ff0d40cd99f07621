//! Bytes of the heartbeat: who speaks, whom he hears, what he claims; authenticated.
//!
//! One datagram is a header, a body and an HMAC-SHA256 over both, at most [`MAX_LEN`] bytes, numbers in network order:
//!
//! ```text
//!  0 magic "FLH1"   4 kind   5 flags   6 zero   8 node   16 ifindex   20 boot   24 seq   28 MAC   34 zero
//! 36 claims version   40 claims digest   48 body … | HMAC
//! beat:   48 count   50 { member 8, echo 4, claims version known 4, flags 1 } × count
//! claims: 48 chunk   50 chunks   52 count   54 { flags 1, address 4|16, epoch 8, [target member 8] } × count
//! ```
//!
//! Freshness needs no clock: `seq` starts at a random number, and a message counts only if its sender echoes a recent `seq` of the
//! receiver (`ownership::peers`), so that a recorded message proves nothing. Decoding never panics and borrows from the datagram.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_model::MacAddr;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::ownership::order::{MemberId, NodeId};

mod bytes;

use bytes::{Reader, Writer};

/// Largest datagram, HMAC included: fits an Ethernet frame with room for tunnels.
pub const MAX_LEN: usize = 1_400;
/// Bytes of the HMAC.
const TAG_LEN: usize = 32;
/// Bytes of the header.
const HEADER_LEN: usize = 48;
/// Entries of a beat; equals the peers that the kernel can tell apart.
pub const MAX_HEARD: usize = 64;
/// Chunks of a claim list.
pub const MAX_CHUNKS: usize = 1_024;
/// Claims of one chunk that always fit, whatever their family.
pub const CLAIMS_PER_CHUNK: usize = 39;

const MAGIC: [u8; 4] = *b"FLH1";
const KIND_BEAT: u8 = 1;
const KIND_CLAIMS: u8 = 2;

/// Bits of [`Header::flags`].
pub mod flags {
    /// The sender has been up on this segment long enough to be given groups.
    pub const SETTLED: u8 = 1;
    /// The sender is about to go: it takes nothing.
    pub const LEAVING: u8 = 1 << 1;
    /// The sender has a gateway on this interface and reaches it.
    pub const GATEWAY_OK: u8 = 1 << 2;
    /// The sender has a gateway on this interface and does not reach it.
    pub const GATEWAY_LOST: u8 = 1 << 3;
}

/// Bits of [`Heard::flags`].
pub mod heard_flags {
    /// The sender counts this member as alive: they hear each other.
    pub const MUTUAL: u8 = 1;
    /// The sender would give this member groups.
    pub const SETTLED: u8 = 1 << 1;
}

/// Bits of a claim's flags.
mod claim_flags {
    pub(super) const V6: u8 = 1;
    pub(super) const OFFERED: u8 = 1 << 1;
    pub(super) const PINNED: u8 = 1 << 2;
}

/// Why a datagram is not a heartbeat of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its own parts, or longer than [`MAX_LEN`].
    #[error("heartbeat has a wrong length")]
    Length,
    /// Another protocol or version.
    #[error("not a heartbeat of this version")]
    Magic,
    /// Neither a beat nor a claim list.
    #[error("unknown kind of heartbeat")]
    Kind,
    /// Made with another key.
    #[error("heartbeat is signed with another key: compare the Secret of both nodes")]
    Key,
    /// More entries than allowed, or entries that do not fill the body.
    #[error("heartbeat has malformed entries")]
    Entries,
}

impl DecodeError {
    /// The closed word for conditions, metrics and the runbook.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Length => "HeartbeatLength",
            Self::Magic => "HeartbeatVersion",
            Self::Kind => "HeartbeatKind",
            Self::Key => "HeartbeatKey",
            Self::Entries => "HeartbeatEntries",
        }
    }
}

/// The shared secret of the cluster's announcers, prepared for signing. `Debug` does not show it.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// Any length; 32 random bytes are right.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"))
    }

    fn sign(&self, bytes: &[u8]) -> [u8; TAG_LEN] {
        let mut mac = self.0.clone();
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }

    fn verifies(&self, bytes: &[u8], tag: &[u8]) -> bool {
        let mut mac = self.0.clone();
        mac.update(bytes);
        mac.verify_slice(tag).is_ok()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Who speaks, and the state of his claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// See [`flags`]; unknown bits are ignored.
    pub flags: u8,
    /// The sending node.
    pub node: NodeId,
    /// Its interface, its own numbering.
    pub ifindex: u32,
    /// Random per start of the agent.
    pub boot: u32,
    /// Grows by one with each message (wrapping), from a random number.
    pub seq: u32,
    /// Hardware address of the interface.
    pub mac: MacAddr,
    /// Grows when the claims change.
    pub claims_version: u32,
    /// Sum over the claims of that version ([`Claim::digest`]); 0 = none.
    pub claims_digest: u64,
}

impl Header {
    /// The member that speaks: a node's interface.
    pub const fn member(&self) -> MemberId {
        MemberId::new(self.node, self.ifindex)
    }
}

/// A member that the sender hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Who.
    pub member: MemberId,
    /// Its latest `seq`.
    pub echo: u32,
    /// The version of its claims that the sender knows in full; 0 = none.
    pub claims_version: u32,
    /// See [`heard_flags`].
    pub flags: u8,
}

/// One address that the sender answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub vip: IpAddr,
    /// The epoch under which it is owned.
    pub epoch: u64,
    /// To whom the owner would hand it over now.
    pub offered_to: Option<MemberId>,
    /// It is where it is, or is offered, because somebody asked for that.
    pub is_pinned: bool,
}

impl Claim {
    /// The claim's share of the digest; the digest is their wrapping sum, so that order does not matter.
    pub fn digest(&self) -> u64 {
        let (hi, lo) = crate::ownership::order::words(self.vip);
        let target = self.offered_to.map_or(0, |m| m.0);
        crate::ownership::order::mix(&[hi, lo, self.epoch, target])
    }
}

/// A verified datagram.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Who speaks.
    pub header: Header,
    /// What he says.
    pub body: Body<'a>,
}

/// Content of a datagram.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// The regular beat.
    Beat(HeardList<'a>),
    /// A part of the claim list.
    Claims {
        /// Index of this part.
        chunk: u16,
        /// Number of parts, at least 1, at most [`MAX_CHUNKS`].
        n_chunks: u16,
        /// The claims of this part.
        claims: ClaimList<'a>,
    },
}

/// Entries of a beat, checked.
#[derive(Debug, Clone, Copy)]
pub struct HeardList<'a>(&'a [u8]);

impl<'a> HeardList<'a> {
    /// In the sender's order.
    pub fn iter(&self) -> impl Iterator<Item = Heard> + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || read_heard(&mut reader))
    }
}

/// Entries of a claim list, checked.
#[derive(Debug, Clone, Copy)]
pub struct ClaimList<'a>(&'a [u8]);

impl<'a> ClaimList<'a> {
    /// In the sender's order.
    pub fn iter(&self) -> impl Iterator<Item = Claim> + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || read_claim(&mut reader))
    }
}

/// Writes a beat; returns its length. At most [`MAX_HEARD`] entries are written.
pub fn encode_beat(
    buffer: &mut [u8; MAX_LEN],
    key: &Key,
    header: &Header,
    heard: impl Iterator<Item = Heard>,
) -> usize {
    let mut writer = write_header(buffer, KIND_BEAT, header);
    let count_at = writer.reserve(2);
    let mut count = 0u16;
    for entry in heard.take(MAX_HEARD) {
        writer.u64(entry.member.0);
        writer.u32(entry.echo);
        writer.u32(entry.claims_version);
        writer.u8(entry.flags);
        count += 1;
    }
    writer.put_u16(count_at, count);
    finish(writer, key)
}

/// Writes one part of a claim list; returns its length. At most [`CLAIMS_PER_CHUNK`] claims are written.
pub fn encode_claims(
    buffer: &mut [u8; MAX_LEN],
    key: &Key,
    header: &Header,
    (chunk, n_chunks): (u16, u16),
    claims: impl Iterator<Item = Claim>,
) -> usize {
    let mut writer = write_header(buffer, KIND_CLAIMS, header);
    writer.u16(chunk);
    writer.u16(n_chunks);
    let count_at = writer.reserve(2);
    let mut count = 0u16;
    for claim in claims.take(CLAIMS_PER_CHUNK) {
        write_claim(&mut writer, &claim);
        count += 1;
    }
    writer.put_u16(count_at, count);
    finish(writer, key)
}

/// Reads a datagram made with one of `keys` (several while a key is being replaced).
///
/// # Errors
/// [`DecodeError`], whose word counts the refused datagrams.
pub fn decode<'a>(datagram: &'a [u8], keys: &[Key]) -> Result<Message<'a>, DecodeError> {
    if datagram.len() > MAX_LEN {
        return Err(DecodeError::Length);
    }
    let (signed, tag) = datagram
        .split_at_checked(datagram.len().saturating_sub(TAG_LEN))
        .filter(|(signed, _)| signed.len() >= HEADER_LEN)
        .ok_or(DecodeError::Length)?;
    if signed.get(..4) != Some(&MAGIC[..]) {
        return Err(DecodeError::Magic);
    }
    if !keys.iter().any(|key| key.verifies(signed, tag)) {
        return Err(DecodeError::Key);
    }
    let mut reader = Reader::new(signed);
    let (kind, header) = read_header(&mut reader).ok_or(DecodeError::Length)?;
    let body = match kind {
        KIND_BEAT => read_beat(reader),
        KIND_CLAIMS => read_claims(reader),
        _ => return Err(DecodeError::Kind),
    };
    let body = body.ok_or(DecodeError::Entries)?;
    Ok(Message { header, body })
}

/// Splits claims into chunks that fit: how many chunks `n` claims need; an empty list is one empty chunk.
pub const fn chunks_for(n: usize) -> usize {
    if n == 0 {
        1
    } else {
        n.div_ceil(CLAIMS_PER_CHUNK)
    }
}

// === reading and writing parts ===

fn write_header<'a>(buffer: &'a mut [u8; MAX_LEN], kind: u8, header: &Header) -> Writer<'a> {
    let mut writer = Writer::new(buffer);
    writer.bytes(&MAGIC);
    writer.u8(kind);
    writer.u8(header.flags);
    writer.u16(0);
    writer.u64(header.node.0);
    writer.u32(header.ifindex);
    writer.u32(header.boot);
    writer.u32(header.seq);
    writer.bytes(&header.mac.0);
    writer.u16(0);
    writer.u32(header.claims_version);
    writer.u64(header.claims_digest);
    writer
}

fn read_header(reader: &mut Reader<'_>) -> Option<(u8, Header)> {
    reader.skip(4)?;
    let kind = reader.u8()?;
    let flags = reader.u8()?;
    reader.skip(2)?;
    let node = NodeId(reader.u64()?);
    let ifindex = reader.u32()?;
    let boot = reader.u32()?;
    let seq = reader.u32()?;
    let mac = MacAddr(reader.array()?);
    reader.skip(2)?;
    let claims_version = reader.u32()?;
    let claims_digest = reader.u64()?;
    let header = Header {
        flags,
        node,
        ifindex,
        boot,
        seq,
        mac,
        claims_version,
        claims_digest,
    };
    Some((kind, header))
}

fn finish(writer: Writer<'_>, key: &Key) -> usize {
    let tag = key.sign(writer.written());
    let mut writer = writer;
    writer.bytes(&tag);
    writer.written().len()
}

fn read_beat(mut reader: Reader<'_>) -> Option<Body<'_>> {
    let count = usize::from(reader.u16()?);
    if count > MAX_HEARD {
        return None;
    }
    let list = HeardList(reader.rest());
    for _ in 0..count {
        read_heard(&mut reader)?;
    }
    reader.is_empty().then_some(Body::Beat(list))
}

fn read_heard(reader: &mut Reader<'_>) -> Option<Heard> {
    Some(Heard {
        member: MemberId(reader.u64()?),
        echo: reader.u32()?,
        claims_version: reader.u32()?,
        flags: reader.u8()?,
    })
}

fn read_claims(mut reader: Reader<'_>) -> Option<Body<'_>> {
    let chunk = reader.u16()?;
    let n_chunks = reader.u16()?;
    let count = usize::from(reader.u16()?);
    if n_chunks == 0 || usize::from(n_chunks) > MAX_CHUNKS || chunk >= n_chunks {
        return None;
    }
    let claims = ClaimList(reader.rest());
    for _ in 0..count {
        read_claim(&mut reader)?;
    }
    reader.is_empty().then_some(Body::Claims {
        chunk,
        n_chunks,
        claims,
    })
}

fn write_claim(writer: &mut Writer<'_>, claim: &Claim) {
    let v6 = if claim.vip.is_ipv6() {
        claim_flags::V6
    } else {
        0
    };
    let offered = if claim.offered_to.is_some() {
        claim_flags::OFFERED
    } else {
        0
    };
    let pinned = if claim.is_pinned {
        claim_flags::PINNED
    } else {
        0
    };
    writer.u8(v6 | offered | pinned);
    match claim.vip {
        IpAddr::V4(ip) => writer.bytes(&ip.octets()),
        IpAddr::V6(ip) => writer.bytes(&ip.octets()),
    }
    writer.u64(claim.epoch);
    if let Some(target) = claim.offered_to {
        writer.u64(target.0);
    }
}

fn read_claim(reader: &mut Reader<'_>) -> Option<Claim> {
    let flags = reader.u8()?;
    let vip = if flags & claim_flags::V6 == 0 {
        IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?))
    } else {
        IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?))
    };
    let epoch = reader.u64()?;
    let offered_to = if flags & claim_flags::OFFERED == 0 {
        None
    } else {
        Some(MemberId(reader.u64()?))
    };
    Some(Claim {
        vip,
        epoch,
        offered_to,
        is_pinned: flags & claim_flags::PINNED != 0,
    })
}

// A full beat and a full chunk of the longest claims fit.
const _: () = assert!(HEADER_LEN + 2 + MAX_HEARD * 17 + TAG_LEN <= MAX_LEN);
const _: () = assert!(HEADER_LEN + 6 + CLAIMS_PER_CHUNK * 33 + TAG_LEN <= MAX_LEN);

#[cfg(test)]
mod tests;
