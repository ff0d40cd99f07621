use super::*;
use crate::{host::Buffer, testing::*};

fn parsed(frame: &[u8]) -> Parsed {
    parse(&Buffer::new(LB, frame)).unwrap()
}

#[test]
fn tags_are_stepped_over_and_kept() {
    let frame = from_client(true, 2000, 80, TCP, SYN).build();
    for tags in [
        &[][..],
        &[0x81, 0, 0, 7],
        &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7],
    ] {
        let tagged = [&frame[..12], tags, &frame[12..]].concat();
        let h = parsed(&tagged);
        assert_eq!(h.link.l3(), 14 + tags.len());
        assert_eq!((h.fault, h.ports.dst), (reasons::NONE, 80u16.to_be_bytes()));
        let bytes: Vec<u8> = h
            .link
            .tags
            .iter()
            .flat_map(|t| [t.kind, t.tci])
            .flat_map(|w| w.get().to_be_bytes())
            .collect();
        assert_eq!(&bytes[..tags.len()], tags);
    }
    let three = [
        &frame[..12],
        &[0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1],
        &frame[12..],
    ]
    .concat();
    assert!(parse(&Buffer::new(LB, &three)).is_none());
}

#[test]
fn ipv4_options_are_stepped_over() {
    let l3 = from_client(false, 2000, 80, TCP, ACK).l3();
    for words in 0..=10usize {
        let mut long = [&l3[..20], &vec![1; words * 4][..], &l3[20..]].concat();
        long[0] = 0x45 + u8::try_from(words).unwrap();
        let total = u16::try_from(long.len()).unwrap();
        long[2..4].copy_from_slice(&total.to_be_bytes());
        let h = parsed(&ether(CLIENT_MAC, LB_MAC, &long));
        assert_eq!((h.fault, h.l4()), (reasons::NONE, 34 + words * 4));
        assert_eq!((h.ports.src, h.tcp_flags), (2000u16.to_be_bytes(), ACK));
    }
}

#[test]
fn ipv6_extension_headers_are_stepped_over() {
    let spec = from_client(true, 2000, 80, UDP, 0);
    // Hop-by-hop (8), destination options (16), routing with no segment left (8), whole "fragment" (8).
    let chain: &[(u8, Vec<u8>)] = &[
        (0, vec![0; 8]),
        (60, [vec![0, 1], vec![0; 14]].concat()),
        (43, vec![0; 8]),
        (44, vec![0, 0, 0, 0, 0, 0, 0, 9]),
    ];
    for n in 0..=chain.len() {
        let mut l4 = spec.transport();
        let mut next = UDP;
        let mut added = 0;
        for (kind, bytes) in chain[..n].iter().rev() {
            let mut header = bytes.clone();
            header[0] = next;
            next = *kind;
            added += header.len();
            l4 = [header, l4].concat();
        }
        let h = parsed(&ether(
            CLIENT_MAC,
            LB_MAC,
            &ip(spec.src, spec.dst, next, 64, &l4),
        ));
        assert_eq!(
            (h.fault, h.proto, h.part),
            (reasons::NONE, UDP, Part::Whole)
        );
        assert_eq!((h.l4(), h.ports.dst), (54 + added, 80u16.to_be_bytes()));
    }
}

#[test]
fn what_cannot_be_served_says_why() {
    let spec = from_client(true, 2000, 80, TCP, ACK);
    let with = |next: u8, l4: &[u8]| {
        parsed(&ether(
            CLIENT_MAC,
            LB_MAC,
            &ip(spec.src, spec.dst, next, 64, l4),
        ))
        .fault
    };
    assert_eq!(
        with(43, &[TCP, 0, 0, 1, 0, 0, 0, 0]),
        reasons::UNSUPPORTED_PROTOCOL,
        "segments left"
    );
    assert_eq!(
        with(60, &[[60, 255].as_slice(), &[0; 400]].concat()),
        reasons::UNSUPPORTED_PROTOCOL,
        "too long"
    );
    assert_eq!(with(60, &[60]), reasons::TRUNCATED);
    assert_eq!(with(TCP, &[0; 13]), reasons::TRUNCATED, "no flags");
    let mut l3 = from_client(false, 2000, 80, TCP, ACK).l3();
    l3[0] = 0x44;
    assert_eq!(
        parsed(&ether(CLIENT_MAC, LB_MAC, &l3)).fault,
        reasons::MALFORMED
    );
    l3[0] = 0x45;
    l3[3] = 255;
    assert_eq!(
        parsed(&ether(CLIENT_MAC, LB_MAC, &l3)).fault,
        reasons::TRUNCATED
    );
    assert!(parse(&Buffer::new(LB, &[0; 20])).is_none());
}

#[test]
fn fragments_are_told_apart() {
    let l3 = from_client(false, 2000, 80, UDP, 0).l3();
    let [first, later] = fragments4(&l3, 16);
    let h = parsed(&ether(CLIENT_MAC, LB_MAC, &first));
    assert_eq!(
        (h.part, h.frag_id, h.ports.dst),
        (Part::First, 0x1234, 80u16.to_be_bytes())
    );
    let h = parsed(&ether(CLIENT_MAC, LB_MAC, &later));
    assert_eq!(
        (h.part, h.frag_id, h.ports),
        (Part::Later, 0x1234, Ports::default())
    );
    let spec = from_client(true, 2000, 80, UDP, 0);
    for (offset, part) in [
        (0u16, Part::Whole),
        (1, Part::First),
        (8, Part::Later),
        (9, Part::Later),
    ] {
        let header = [
            [UDP, 0].as_slice(),
            &offset.to_be_bytes(),
            &[0xa, 0xb, 0xc, 0xd],
        ]
        .concat();
        let l4 = [header, spec.transport()].concat();
        let h = parsed(&ether(
            CLIENT_MAC,
            LB_MAC,
            &ip(spec.src, spec.dst, 44, 64, &l4),
        ));
        assert_eq!(
            (h.part, h.proto, h.frag_id, h.l4()),
            (part, UDP, 0x0a0b_0c0d, 62)
        );
        assert_eq!(h.ports.dst == 80u16.to_be_bytes(), part != Part::Later);
    }
}
