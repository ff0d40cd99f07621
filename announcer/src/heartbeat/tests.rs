use std::net::IpAddr;

use fairlead_model::MacAddr;
use proptest::prelude::*;

use super::{
    Body, CLAIMS_PER_CHUNK, Claim, DecodeError, Header, Heard, Key, MAX_HEARD, MAX_LEN, decode,
    encode_beat, encode_claims,
};
use crate::ownership::order::{MemberId, NodeId};

fn header() -> Header {
    Header {
        flags: 1,
        node: NodeId(0x0102_0304_0506_0708),
        ifindex: 2,
        boot: 0xaabb_ccdd,
        seq: 7,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        claims_version: 3,
        claims_digest: 0x1122_3344_5566_7788,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn a_beat_has_these_bytes() {
    let mut buffer = [0; MAX_LEN];
    let heard = Heard {
        member: MemberId(9),
        echo: 5,
        claims_version: 4,
        flags: 3,
    };
    let len = encode_beat(
        &mut buffer,
        &Key::new(b"secret"),
        &header(),
        std::iter::once(heard),
    );
    // The tag was computed with Python's hmac module over the bytes before it.
    assert_eq!(
        hex(&buffer[..len]),
        "464c4831010100000102030405060708\
         00000002aabbccdd0000000702000000000100000000000311223344556677880001\
         0000000000000009000000050000000403\
         ffc319eac07e8c4f762db2305b208fe8c511609ed4952c72608a5d4b8cdf14a7"
    );
}

#[test]
fn a_claim_list_has_these_bytes() {
    let mut buffer = [0; MAX_LEN];
    let claims = [
        Claim {
            vip: "192.0.2.1".parse().unwrap(),
            epoch: 6,
            offered_to: None,
            is_pinned: false,
        },
        Claim {
            vip: "2001:db8::1".parse().unwrap(),
            epoch: 7,
            offered_to: Some(MemberId(8)),
            is_pinned: false,
        },
    ];
    let key = Key::new(b"secret");
    let len = encode_claims(&mut buffer, &key, &header(), (1, 2), claims.into_iter());
    assert_eq!(
        hex(&buffer[..len]),
        "464c4831020100000102030405060708\
         00000002aabbccdd000000070200000000010000000000031122334455667788\
         000100020002\
         00c00002010000000000000006\
         0320010db800000000000000000000000100000000000000070000000000000008\
         be86ad8296b7bd899ceb13fb5750b9ab646b053c76bcf5b7fb4a8ecfafb0eebd"
    );
    let message = decode(&buffer[..len], &[Key::new(b"old"), key]).unwrap();
    assert_eq!(message.header, header());
    let Body::Claims {
        chunk: 1,
        n_chunks: 2,
        claims: read,
    } = message.body
    else {
        panic!("{message:?}");
    };
    assert_eq!(read.iter().collect::<Vec<_>>(), claims);
}

#[test]
fn the_fullest_messages_fit_a_datagram() {
    let mut buffer = [0; MAX_LEN];
    let key = Key::new(b"secret");
    let heard = Heard {
        member: MemberId(u64::MAX),
        echo: u32::MAX,
        claims_version: u32::MAX,
        flags: u8::MAX,
    };
    let len = encode_beat(&mut buffer, &key, &header(), std::iter::repeat(heard));
    let Body::Beat(list) = decode(&buffer[..len], std::slice::from_ref(&key))
        .unwrap()
        .body
    else {
        panic!("no beat");
    };
    assert_eq!(list.iter().count(), MAX_HEARD);
    let claim = Claim {
        vip: "ffff::".parse().unwrap(),
        epoch: u64::MAX,
        offered_to: Some(MemberId(u64::MAX)),
        is_pinned: true,
    };
    let len = encode_claims(
        &mut buffer,
        &key,
        &header(),
        (0, 1),
        std::iter::repeat(claim),
    );
    let Body::Claims { claims, .. } = decode(&buffer[..len], &[key]).unwrap().body else {
        panic!("no claims");
    };
    assert_eq!(claims.iter().count(), CLAIMS_PER_CHUNK);
}

#[test]
fn another_key_is_refused_and_named() {
    let mut buffer = [0; MAX_LEN];
    let len = encode_beat(
        &mut buffer,
        &Key::new(b"secret"),
        &header(),
        std::iter::empty(),
    );
    let error = decode(&buffer[..len], &[Key::new(b"Secret")]).unwrap_err();
    assert_eq!((error, error.reason()), (DecodeError::Key, "HeartbeatKey"));
}

fn any_claim() -> impl Strategy<Value = Claim> {
    (
        any::<IpAddr>(),
        any::<u64>(),
        any::<Option<u64>>().prop_map(|m| m.map(MemberId)),
    )
        .prop_map(|(vip, epoch, offered_to)| Claim {
            vip,
            epoch,
            offered_to,
            is_pinned: epoch % 2 == 0,
        })
}

proptest! {
    #[test]
    fn decoding_arbitrary_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        prop_assert!(decode(&bytes, &[Key::new(b"secret")]).is_err());
    }

    // Signed with the right key, so that the parser behind the signature sees the bytes.
    #[test]
    fn decoding_signed_nonsense_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..1300), kind in 0u8..4) {
        let key = Key::new(b"secret");
        for (at, byte) in super::MAGIC.iter().chain(&[kind]).enumerate() {
            if let Some(slot) = bytes.get_mut(at) {
                *slot = *byte;
            }
        }
        let tag = key.sign(&bytes);
        bytes.extend_from_slice(&tag);
        if let Ok(message) = decode(&bytes, &[key]) {
            match message.body {
                Body::Beat(list) => prop_assert!(list.iter().count() <= MAX_HEARD),
                Body::Claims { claims, .. } => prop_assert!(claims.iter().count() < 1400),
            }
        }
    }

    #[test]
    fn claims_read_back_as_written(claims in prop::collection::vec(any_claim(), 0..=CLAIMS_PER_CHUNK)) {
        let mut buffer = [0; MAX_LEN];
        let key = Key::new(b"secret");
        let len = encode_claims(&mut buffer, &key, &header(), (0, 1), claims.iter().copied());
        let message = decode(&buffer[..len], &[key]).unwrap();
        let Body::Claims { claims: read, .. } = message.body else { panic!("no claims") };
        prop_assert_eq!(read.iter().collect::<Vec<_>>(), claims);
    }

    #[test]
    fn a_changed_bit_is_refused(at in 0usize..82, bit in 0u8..8) {
        let mut buffer = [0; MAX_LEN];
        let key = Key::new(b"secret");
        let len = encode_beat(&mut buffer, &key, &header(), std::iter::empty());
        prop_assert_eq!(len, 82);
        buffer[at] ^= 1 << bit;
        prop_assert!(decode(&buffer[..len], &[key]).is_err());
    }
}
