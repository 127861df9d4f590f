//! A small chart as SVG, drawn here, so that it is there without scripts.

use super::html::Html;
use crate::health::{INTERVAL, POINTS};

/// Width and height of the drawing, which is stretched to its place.
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 60.0;
/// Two values further apart than this are not connected.
const LONGEST_GAP: f64 = 95_000.0;

/// A series to be drawn: time in milliseconds and value, oldest first; none where there was none.
pub struct Chart<'a> {
    pub series: &'a [(u64, Option<f64>)],
    /// The right edge.
    pub now_ms: u64,
    /// What is drawn, for those who cannot see it.
    pub label: &'a str,
}

/// The span of the horizontal axis.
pub fn span_ms() -> u64 {
    POINTS as u64 * INTERVAL.as_millis() as u64
}

impl Chart<'_> {
    /// The upper end of the vertical axis, above the largest value; the lower one is zero.
    pub fn top(&self) -> f64 {
        let largest = self.series.iter().filter_map(|(_, value)| *value).fold(0.0, f64::max);
        if largest > 0.0 { largest * 1.08 } else { 1.0 }
    }

    pub fn draw(&self, html: &mut Html) {
        html.raw("<svg class=chart role=img viewBox=\"0 0 300 60\" preserveAspectRatio=none aria-label=\"");
        html.text(self.label).raw("\"><path class=grid d=\"M0 20H300M0 40H300\"/>");
        for line in self.lines() {
            if let [(x, y)] = line.as_slice() {
                // A line of no length has round ends: a dot.
                html.raw("<path class=line d=\"M").text(point(*x, *y)).raw("h0\"/>");
                continue;
            }
            let path = line.iter().map(|(x, y)| point(*x, *y)).collect::<Vec<_>>().join("L");
            let (first, last) = (line.first().map_or(0.0, |it| it.0), line.last().map_or(0.0, |it| it.0));
            html.raw("<path class=area d=\"M").text(&path);
            html.text(format_args!("L{last:.1} {HEIGHT}L{first:.1} {HEIGHT}")).raw("Z\"/>");
            html.raw("<path class=line d=\"M").text(&path).raw("\"/>");
        }
        html.raw("</svg>");
    }

    /// The values as runs of connected points.
    fn lines(&self) -> Vec<Vec<(f64, f64)>> {
        let top = self.top();
        let mut lines: Vec<Vec<(f64, f64)>> = Vec::new();
        let mut before: Option<u64> = None;
        let known = self.series.iter().filter_map(|(at_ms, value)| Some((*at_ms, (*value)?)));
        for (at_ms, value) in known {
            let x = WIDTH * (1.0 - self.now_ms.saturating_sub(at_ms) as f64 / span_ms() as f64);
            if x < 0.0 {
                continue;
            }
            // Half a stroke is kept free at either edge.
            let place = (x, (HEIGHT - 1.5) - (HEIGHT - 3.0) * (value / top).clamp(0.0, 1.0));
            match (before, lines.last_mut()) {
                (Some(before), Some(line)) if at_ms.saturating_sub(before) as f64 <= LONGEST_GAP => line.push(place),
                _ => lines.push(vec![place]),
            }
            before = Some(at_ms);
        }
        lines
    }
}

fn point(x: f64, y: f64) -> String {
    format!("{x:.1} {y:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(series: &[(u64, Option<f64>)]) -> String {
        let mut html = Html::default();
        Chart { series, now_ms: 600_000, label: "rows of \"x\"" }.draw(&mut html);
        html.into_string()
    }

    #[test]
    fn values_are_lines_and_silence_is_a_gap() {
        let svg = drawn(&[(0, Some(1.0)), (60_000, None), (90_000, Some(2.0)), (300_000, Some(4.0)), (600_000, None)]);
        assert!(svg.contains("aria-label=\"rows of &quot;x&quot;\""), "{svg}");
        assert_eq!(svg.matches("class=line").count(), 2, "{svg}");
        assert!(svg.contains("M0.0 45.3L45.0 32.1\""), "{svg}");
        assert!(svg.contains("M150.0 5.7h0"), "{svg}");
    }

    #[test]
    fn nothing_and_zero_are_drawn_too() {
        assert_eq!(drawn(&[]).matches("class=line").count(), 0);
        assert!(drawn(&[(590_000, Some(0.0)), (600_000, Some(0.0))]).contains("M295.0 58.5L300.0 58.5\""));
    }
}
