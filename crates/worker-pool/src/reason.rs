//! Reasons as they can be stored. A failure must always be reportable: what it
//! says is cut and cleaned, and never a cause to refuse the report. Pure.

use agentos_core::limits::REASON_BYTES_MAX;

/// Says that something was cut off.
const ELLIPSIS: char = '…';

/// The reason without NUL and in at most [`REASON_BYTES_MAX`] bytes. What is too
/// long ends with an ellipsis; no character is cut in two.
pub(crate) fn storable(reason: impl Into<String>) -> String {
    let mut reason = reason.into();
    if reason.contains('\0') {
        reason = reason.replace('\0', "\u{fffd}");
    }
    if REASON_BYTES_MAX < reason.len() {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX - ELLIPSIS.len_utf8()));
        reason.push(ELLIPSIS);
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_stored_stays_as_it_is() {
        for reason in ["", "no such page", "задача 🦀\n\t"] {
            assert_eq!(storable(reason), reason);
        }
        let longest = "x".repeat(REASON_BYTES_MAX);
        assert_eq!(storable(longest.clone()), longest);
    }

    #[test]
    fn a_long_reason_is_cut_between_two_characters() {
        for (letter, kept) in [("x", 4093), ("ж", 2046), ("€", 1364), ("🦀", 1023)] {
            let cut = storable(letter.repeat(REASON_BYTES_MAX + 1));
            assert_eq!(cut, format!("{}…", letter.repeat(kept)));
            assert!(cut.len() <= REASON_BYTES_MAX);
        }
    }

    #[test]
    fn nul_is_replaced_before_the_length_is_looked_at() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        let cut = storable("\0".repeat(REASON_BYTES_MAX));
        assert!(cut.len() <= REASON_BYTES_MAX);
        assert!(cut.ends_with("\u{fffd}…"));
    }
}
