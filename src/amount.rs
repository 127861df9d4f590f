//! Amounts as people read them.

use crate::app::group_digits;

/// Milliseconds in the largest unit that leaves no more than one digit after the point: `7 d`, `1.5 h`, `250 ms`.
pub fn duration(milliseconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    let size = milliseconds.saturating_abs();
    match UNITS.iter().find(|(unit, _)| size >= *unit) {
        Some((unit, name)) => number(milliseconds as f64 / *unit as f64, name),
        None => format!("{milliseconds} ms"),
    }
}

/// Bytes in binary units: `5 GiB`, `1.5 MiB`, `12 B`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => number(bytes as f64 / *unit as f64, name),
        None => format!("{bytes} B"),
    }
}

/// `1 file`, `3 files`.
pub fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", group_digits(count as u64))
}

fn number(value: f64, unit: &str) -> String {
    let text = format!("{value:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_unit_that_fits_them() {
        for (milliseconds, text) in [
            (604_800_000, "7 d"),
            (5_400_000, "1.5 h"),
            (60_000, "1 min"),
            (1_500, "1.5 s"),
            (250, "250 ms"),
            (-90_000, "-1.5 min"),
            (0, "0 ms"),
        ] {
            assert_eq!(duration(milliseconds), text);
        }
        for (count, text) in [(0, "0 files"), (1, "1 file"), (1_234, "1,234 files")] {
            assert_eq!(counted(count, "file"), text);
        }
        for (size, text) in [(0, "0 B"), (1_536, "1.5 KiB"), (5 << 30, "5 GiB"), (3 << 40, "3 TiB")] {
            assert_eq!(bytes(size), text);
        }
    }
}
