//! Numbers and times as people read them.

use std::time::Duration;

use bytesize::ByteSize;
use console::measure_text_width;
use registry_core::Timestamp;
use registry_server::api::Time;

/// What stands where there is nothing to tell.
pub(super) const NOTHING: &str = "-";

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// A number of bytes: `1.5 GiB`.
pub(super) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// A number, with commas between its thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut written = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            written.push(',');
        }
        written.push(digit);
    }
    written
}

/// How many there are of something: `1 image`, `2 images`.
pub(super) fn many(number: u64, one: &str, several: &str) -> String {
    format!(
        "{} {}",
        count(number),
        if number == 1 { one } else { several }
    )
}

/// A part of a whole, in percent with one digit; none of nothing.
pub(super) fn percent(part: u64, whole: u64) -> Option<String> {
    if whole == 0 {
        return None;
    }
    // In tenths, and downwards: 100 % is all of it.
    let tenths = u128::from(part) * 1_000 / u128::from(whole);
    Some(format!("{}.{} %", tenths / 10, tenths % 10))
}

/// How long a time is, in its biggest unit: `3 h`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => format!("{} h", seconds / HOUR),
        DAY..YEAR => format!("{} d", seconds / DAY),
        _ => format!("{} y", seconds / YEAR),
    }
}

/// How long ago something was: `3 h ago`.
pub(super) fn ago(at: Time, now: Timestamp) -> String {
    format!("{} ago", span(now.since(at.timestamp())))
}

/// The same of what may never have been.
pub(super) fn ago_or_never(at: Option<Time>, now: Timestamp) -> String {
    at.map_or_else(|| NOTHING.to_owned(), |at| ago(at, now))
}

/// A digest, short enough to be looked at: `sha256:0123456789ab`.
pub(super) fn short(digest: &str) -> &str {
    const HEX_SHOWN: usize = 12;
    let hex = digest.find(':').map_or(0, |colon| colon + 1);
    digest.get(..hex + HEX_SHOWN).unwrap_or(digest)
}

/// Sentences as lines of at most `width` columns, each but the first `indent` columns to the right.
/// One line where there is no width.
pub(super) fn wrapped(text: &str, width: Option<usize>, indent: usize) -> String {
    /// Narrower than this, what is indented is unreadable anyway.
    const WIDTH_MIN: usize = 40;
    let Some(width) = width.filter(|width| *width >= WIDTH_MIN) else {
        return text.to_owned();
    };
    let mut lines = String::with_capacity(text.len() + 16);
    let mut column = indent;
    for word in text.split_whitespace() {
        let length = measure_text_width(word);
        if column > indent && column + 1 + length > width {
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if column > indent {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1_536), "1.5 KiB");
        assert_eq!(size(50 << 30), "50.0 GiB");
        assert_eq!(many(1, "image", "images"), "1 image");
        assert_eq!(many(0, "image", "images"), "0 images");
        assert_eq!(percent(1, 0), None);
        assert_eq!(percent(999_999, 1_000_000).as_deref(), Some("99.9 %"));
        assert_eq!(percent(u64::MAX, u64::MAX).as_deref(), Some("100.0 %"));
    }

    #[test]
    fn times_are_told_in_their_biggest_unit() {
        for (seconds, wanted) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min"),
            (3_600, "1 h"),
            (86_399, "23 h"),
            (86_400, "1 d"),
            (364 * DAY, "364 d"),
            (730 * DAY, "2 y"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), wanted);
        }
        // A mirror whose clock is ahead of ours.
        let ahead = Time::from(Timestamp::from_millis(5_000));
        assert_eq!(ago(ahead, Timestamp::from_millis(0)), "0 s ago");
    }

    #[test]
    fn sentences_are_broken_between_words() {
        let text = "one two three four five six seven eight nine ten";
        assert_eq!(wrapped(text, None, 4), text);
        assert_eq!(wrapped(text, Some(10), 4), text);
        let lines = wrapped(text, Some(40), 4);
        assert_eq!(
            lines,
            "one two three four five six seven\n    eight nine ten"
        );
    }

    #[test]
    fn digests_are_shortened() {
        assert_eq!(short("sha256:0123456789abcdef"), "sha256:0123456789ab");
        assert_eq!(short("sha256:01"), "sha256:01");
    }
}
