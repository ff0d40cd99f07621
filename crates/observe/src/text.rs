//! Small formats shared by every table: ages, counts, columns.

use std::time::Duration;

use comfy_table::{ContentArrangement, Row, Table, presets};

/// An age as kubectl writes it: two units at most, and one where the second says nothing: `45s`, `3m12s`, `5h3m`, `4d2h`, `400d`.
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: u64, big_unit: char, small: u64, small_unit: char| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    if seconds < 60 {
        format!("{seconds}s")
    } else if minutes < 60 {
        two(minutes, 'm', seconds % 60, 's')
    } else if hours < 24 {
        two(hours, 'h', minutes % 60, 'm')
    } else if days < 8 {
        two(days, 'd', hours % 24, 'h')
    } else {
        format!("{days}d")
    }
}

/// `1 frontend`, `2 frontends`, `0 frontends`.
pub fn count(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        _ => format!("{n} {noun}s"),
    }
}

/// A number with a thin group separator, so that millions are read at a glance: `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Columns parted by three spaces, no lines, no trailing white space; header in capitals. Ends with a newline.
pub fn columns<R: Into<Row>>(header: &[&str], rows: impl IntoIterator<Item = R>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .add_rows(rows);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Each line behind two spaces.
pub fn indented(text: &str) -> String {
    let lines = text.lines();
    lines.flat_map(|line| ["  ", line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn ages_are_short() {
        let cases = [
            (0, "0s"),
            (45, "45s"),
            (192, "3m12s"),
            (180, "3m"),
            (18_180, "5h3m"),
            (352_800, "4d2h"),
            (34_560_000, "400d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(super::age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(super::grouped(7), "7");
        assert_eq!(super::grouped(1_234_567), "1,234,567");
        assert_eq!(super::count(1, "node"), "1 node");
    }

    #[test]
    fn columns_align_without_trailing_space() {
        let text = super::columns(&["A", "LONGER"], [["x", "y"], ["long cell", ""]]);
        assert_eq!(text, "A           LONGER\nx           y\nlong cell\n");
    }
}
