//! Bars as SVG, inside a page of their own colours.
//!
//! Pure: numbers in, markup out. Every bar says its number when it is pointed
//! at, and the axis has words at both ends.

use maud::{Markup, html};

const BAR_WIDTH: usize = 16;
const BAR_GAP: usize = 2;
const HEIGHT: u64 = 70;
/// Room for the words below the axis.
const FOOT: u64 = 18;

/// Bars for counts of equal parts of a range; `words` names the place in it that
/// is 0 to 1 of the way.
pub(in crate::report) fn histogram(
    counts: &[u64],
    words: impl Fn(f64) -> String,
    title: &str,
) -> Markup {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let width = counts.len() * BAR_WIDTH;
    let bottom = HEIGHT + FOOT - 4;
    let end = |part: usize| words(part as f64 / counts.len() as f64);
    html! {
        svg.chart role="img" aria-label=(title) width=(width) height=(HEIGHT + FOOT)
            viewBox={ "0 0 " (width) " " (HEIGHT + FOOT) } {
            @for (part, count) in counts.iter().enumerate() {
                @let height = bar_height(*count, most);
                rect.bar x=(part * BAR_WIDTH) y=(HEIGHT - height) width=(BAR_WIDTH - BAR_GAP)
                    height=(height) { title { (count) " from " (end(part)) " to " (end(part + 1)) } }
            }
            line.axis x1="0" y1=(HEIGHT) x2=(width) y2=(HEIGHT) {}
            text x="0" y=(bottom) { (words(0.0)) }
            text x=(width / 2) y=(bottom) text-anchor="middle" { "most: " (most) }
            text x=(width) y=(bottom) text-anchor="end" { (words(1.0)) }
        }
    }
}

/// In proportion, but a single run among many thousands is still to be seen.
fn bar_height(count: u64, most: u64) -> u64 {
    if count == 0 {
        0
    } else {
        (count * HEIGHT / most).max(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bar_fills_the_height_and_the_lowest_is_seen() {
        assert_eq!(bar_height(0, 10), 0);
        assert_eq!(bar_height(10, 10), HEIGHT);
        assert_eq!(bar_height(5, 10), HEIGHT / 2);
        assert_eq!(bar_height(1, 1_000_000), 2);
    }

    #[test]
    fn words_are_escaped() {
        let chart = histogram(&[1, 0], |place| format!("<{place}&"), "\"t\"").into_string();
        let title = "<title>1 from &lt;0&amp; to &lt;0.5&amp;</title>";
        assert!(chart.contains(title), "{chart}");
        assert!(chart.contains("aria-label=\"&quot;t&quot;\""), "{chart}");
        assert_eq!(chart.matches("<rect").count(), 2);
    }
}
