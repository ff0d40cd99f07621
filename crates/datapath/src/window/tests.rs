use core::mem::offset_of;

use fairlead_abi::lb::{FrontendValue, Iface, MaglevLine, SlotTable};

use super::Window;

#[test]
fn an_element_reads_back_as_written_and_leaves_its_neighbours_alone() {
    let window = Window::<Iface>::in_memory(3);
    let iface = Iface {
        ifindex: 7,
        mtu: 1500,
        mac: [1, 2, 3, 4, 5, 6],
        addr6: [9; 16],
        ..Iface::default()
    };
    window.write(1, &iface);
    assert_eq!(window.read(1), iface);
    assert_eq!(window.read(0), Iface::default());
    assert_eq!(window.read(2), Iface::default());
}

#[test]
fn a_word_lands_in_the_field_at_its_offset() {
    let window = Window::<FrontendValue>::in_memory(2);
    let table = SlotTable { line: 3, len: 251 };
    window.store_u64(
        1,
        offset_of!(FrontendValue, current),
        zerocopy::transmute!(table),
    );
    assert_eq!(window.read(1).current, table);
    assert_eq!(
        window.load_u64(1, offset_of!(FrontendValue, current)),
        zerocopy::transmute!(table)
    );
    assert_eq!(window.read(0), FrontendValue::default());
}

#[test]
fn elements_are_as_far_apart_as_the_kernel_puts_them() {
    assert_eq!(Window::<u32>::STRIDE, 8);
    assert_eq!(Window::<[u8; 12]>::STRIDE, 16);
    assert_eq!(Window::<MaglevLine>::STRIDE, 64);
}

#[test]
fn clones_share_the_array() {
    let window = Window::<u32>::in_memory(2);
    let other = window.clone();
    window.write(1, &7);
    assert_eq!(other.read(1), 7);
    assert_eq!(other.read(0), 0);
}
