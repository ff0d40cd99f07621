use fairlead_model::MacAddr;
use proptest::prelude::*;

use super::{FrameBytes, Sender, announcement, parse, probe, solicited_node};

fn sender() -> Sender {
    Sender {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        link_local: Some("fe80::1".parse().unwrap()),
    }
}

fn hex(frame: &FrameBytes) -> String {
    use std::fmt::Write as _;
    let bytes = frame.as_bytes().iter();
    bytes.fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn an_arp_probe_has_no_sender_address() {
    let everybody = probe(&sender(), "192.0.2.1".parse().unwrap(), None);
    assert_eq!(
        hex(&everybody),
        "ffffffffffff020000000001080600010800060400010200000000010000000000000000 0000c0000201"
            .replace(' ', "")
    );
    let one = probe(
        &sender(),
        "192.0.2.1".parse().unwrap(),
        Some(MacAddr([2, 0, 0, 0, 0, 9])),
    );
    assert_eq!(one.as_bytes()[..6], [2, 0, 0, 0, 0, 9]);
    assert_eq!(one.as_bytes()[6..], everybody.as_bytes()[6..]);
}

#[test]
fn an_arp_announcement_is_a_request_and_a_reply() {
    let [request, reply] = announcement(&sender(), "192.0.2.1".parse().unwrap());
    assert_eq!(
        hex(&request.unwrap()),
        "ffffffffffff0200000000010806000108000604 0001 020000000001c0000201 000000000000c0000201"
            .replace(' ', "")
    );
    assert_eq!(
        hex(&reply.unwrap()),
        "ffffffffffff0200000000010806000108000604 0002 020000000001c0000201 020000000001c0000201"
            .replace(' ', "")
    );
}

#[test]
fn a_solicitation_to_everybody_is_dad() {
    let frame = probe(&sender(), "2001:db8::1:2345".parse().unwrap(), None);
    // The checksum was computed with Python over the pseudo-header of RFC 8200 8.1.
    assert_eq!(
        hex(&frame),
        "3333ff01234502000000000186dd 6000000000183aff 00000000000000000000000000000000 \
         ff0200000000000000000001ff012345 8700 0663 00000000 20010db8000000000000000000012345"
            .replace(' ', "")
    );
}

#[test]
fn a_solicitation_to_one_station_names_its_sender() {
    let to = Some(MacAddr([2, 0, 0, 0, 0, 9]));
    let frame = probe(&sender(), "2001:db8::1:2345".parse().unwrap(), to);
    assert_eq!(
        hex(&frame),
        "02000000000902000000000186dd 6000000000203aff fe800000000000000000000000000001 \
         20010db8000000000000000000012345 8700 d522 00000000 20010db8000000000000000000012345 \
         0101020000000001"
            .replace(' ', "")
    );
}

#[test]
fn an_unsolicited_advertisement_overrides() {
    let [frame, none] = announcement(&sender(), "2001:db8::1:2345".parse().unwrap());
    assert!(none.is_none());
    assert_eq!(
        hex(&frame.unwrap()),
        "33330000000102000000000186dd 6000000000203aff 20010db8000000000000000000012345 \
         ff020000000000000000000000000001 8800 b2a0 20000000 20010db8000000000000000000012345 \
         0201020000000001"
            .replace(' ', "")
    );
}

#[test]
fn probes_and_claims_are_told_apart() {
    for vip in ["192.0.2.1", "2001:db8::1"] {
        let vip = vip.parse().unwrap();
        let asked = parse(probe(&sender(), vip, None).as_bytes()).unwrap();
        assert_eq!((asked.probes, asked.claims), (Some(vip), None));
        assert_eq!(asked.mac, sender().mac);
        for frame in announcement(&sender(), vip).into_iter().flatten() {
            let told = parse(frame.as_bytes()).unwrap();
            assert_eq!((told.probes, told.claims), (None, Some(vip)));
            assert_eq!(told.mac, sender().mac);
        }
    }
}

#[test]
fn a_question_of_a_client_claims_only_its_own_address() {
    let mut frame = probe(&sender(), "192.0.2.1".parse().unwrap(), None);
    frame.bytes[28..32].copy_from_slice(&[192, 0, 2, 77]);
    let seen = parse(frame.as_bytes()).unwrap();
    assert_eq!(seen.claims, Some("192.0.2.77".parse().unwrap()));
    assert_eq!(seen.probes, None);
}

#[test]
fn a_routed_or_damaged_advertisement_claims_nothing() {
    let vip = "2001:db8::1".parse().unwrap();
    let [frame, _] = announcement(&sender(), vip);
    let (mut routed, mut damaged) = (frame.unwrap(), frame.unwrap());
    routed.bytes[21] = 254;
    damaged.bytes[70] ^= 1;
    for frame in [routed, damaged] {
        let seen = parse(frame.as_bytes()).unwrap();
        assert_eq!((seen.claims, seen.mac), (None, sender().mac));
    }
}

#[test]
fn the_solicited_node_group_holds_the_last_three_bytes() {
    let group = solicited_node("2001:db8::1:2345".parse().unwrap());
    assert_eq!(group.to_string(), "ff02::1:ff01:2345");
}

proptest! {
    #[test]
    fn parsing_arbitrary_bytes_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0usize..3) {
        if let Some(at) = bytes.get_mut(12..14) {
            at.copy_from_slice(&[[8, 6], [0x86, 0xdd], [8, 0]][kind]);
        }
        if let Some(at) = bytes.get_mut(20..22) {
            at.copy_from_slice(&[58, 255]);
        }
        let _ = parse(&bytes);
    }
}
