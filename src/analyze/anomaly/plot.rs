//! A backtest as a picture: a self-contained SVG, values above and scores below over the same time.

use super::{
    axis::{moment_label, number, time_ticks, value_ticks},
    backtest::ScoredRow,
    moment::Moment,
    watch::Direction,
};
use std::fmt::Write;

/// What is drawn.
pub struct Picture<'a> {
    pub title: String,
    pub subtitle: String,
    pub direction: Direction,
    pub threshold: f64,
    pub step_ms: i64,
    pub rows: &'a [ScoredRow],
    pub moments: &'a [Moment],
}

const WIDTH: f64 = 1_200.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 1_172.0;
const VALUES: Panel = Panel { top: 104.0, bottom: 424.0 };
const SCORES: Panel = Panel { top: 472.0, bottom: 584.0 };
/// More labels than these would hide each other.
const MOST_LABELS: usize = 24;

const STYLE: &str = "\
text{font-family:Inter,'Segoe UI','Helvetica Neue',Arial,'DejaVu Sans',sans-serif;font-size:12px;fill:#475569}\
.title{font-size:20px;font-weight:600;fill:#0f172a}.subtitle{font-size:13px;fill:#64748b}\
.panel{font-size:12px;font-weight:600;fill:#334155}.day{fill:#94a3b8}\
.grid{stroke:#e8edf3;stroke-width:1}.axis{stroke:#cbd5e1;stroke-width:1}\
.band{fill:#3b82f6;fill-opacity:.10}.edge{fill:none;stroke:#3b82f6;stroke-width:1;stroke-opacity:.45}\
.baseline{fill:none;stroke:#3b82f6;stroke-width:1.2;stroke-dasharray:5 4;stroke-opacity:.8}\
.value{fill:none;stroke:#1e293b;stroke-width:1.2;stroke-linejoin:round}\
.score{fill:none;stroke:#64748b;stroke-width:1;stroke-linejoin:round}\
.threshold{stroke:#e11d48;stroke-width:1.2;stroke-dasharray:6 4}\
.rule{stroke:#e11d48;stroke-width:1;stroke-opacity:.28}\
.dot{fill:#e11d48;stroke:#fff;stroke-width:1.6}\
.label{font-size:11px;font-weight:600;fill:#be123c;stroke:#fff;stroke-width:3px;paint-order:stroke;stroke-linejoin:round}";

struct Panel {
    top: f64,
    bottom: f64,
}

/// From a panel's values to pixels.
struct Scale {
    low: f64,
    high: f64,
    panel: Panel,
}

impl Scale {
    fn y(&self, value: f64) -> f64 {
        let share = (value.clamp(self.low, self.high) - self.low) / (self.high - self.low);
        self.panel.bottom - share * (self.panel.bottom - self.panel.top)
    }
}

/// Times to pixels; each row is drawn at its start.
struct TimeScale {
    from_ms: i64,
    to_ms: i64,
}

impl TimeScale {
    fn x(&self, time_ms: i64) -> f64 {
        let span_ms = (self.to_ms - self.from_ms).max(1) as f64;
        LEFT + (time_ms - self.from_ms) as f64 / span_ms * (RIGHT - LEFT)
    }
}

/// The rows that share a column of pixels.
#[derive(Debug, Clone, Copy)]
struct Column {
    x: f64,
    /// A line is broken before it.
    is_after_gap: bool,
    least: f64,
    greatest: f64,
    mean: f64,
}

pub fn svg(picture: &Picture) -> String {
    let rows = picture.rows;
    let time = TimeScale {
        from_ms: rows.first().map_or(0, |row| row.start_ms),
        to_ms: rows.last().map_or(1, |row| row.start_ms),
    };
    let column = |of: &dyn Fn(&ScoredRow) -> Option<f64>| columns(rows, picture.step_ms, &time, of);
    let values = column(&|row| row.value);
    let baseline = column(&|row| row.baseline);
    let offset = |row: &ScoredRow, sign: f64| Some(row.baseline? + sign * row.deviation? * picture.threshold);
    let upper = column(&|row| offset(row, if picture.direction == Direction::Down { 0.0 } else { 1.0 }));
    let lower = column(&|row| offset(row, if picture.direction == Direction::Up { 0.0 } else { -1.0 }));
    let scores = column(&|row| row.score);
    let value_scale = scale(&[&values, &upper, &lower], VALUES);
    let top_score = scores.iter().map(|column| column.greatest).fold(picture.threshold * 1.5, f64::max);
    let score_scale = Scale { low: 0.0, high: top_score * 1.05, panel: SCORES };

    let mut svg = String::new();
    open(&mut svg, picture);
    axes(&mut svg, &time, &value_scale, &score_scale);
    band(&mut svg, &upper, &lower, &value_scale);
    let threshold_y = score_scale.y(picture.threshold);
    if picture.direction != Direction::Down {
        path(&mut svg, "edge", &upper, &value_scale, false);
    }
    if picture.direction != Direction::Up {
        path(&mut svg, "edge", &lower, &value_scale, false);
    }
    path(&mut svg, "baseline", &baseline, &value_scale, false);
    for moment in picture.moments {
        let x = time.x(moment.window_start_ms);
        line(&mut svg, "rule", (x, VALUES.top), (x, SCORES.bottom));
    }
    path(&mut svg, "value", &values, &value_scale, true);
    path(&mut svg, "score", &scores, &score_scale, true);
    line(&mut svg, "threshold", (LEFT, threshold_y), (RIGHT, threshold_y));
    moments(&mut svg, picture, &time, &value_scale, &score_scale);
    svg.push_str("</svg>\n");
    svg
}

/// One column for each pixel at most: the least and the greatest value of its rows, so that no spike is lost.
fn columns(rows: &[ScoredRow], step_ms: i64, time: &TimeScale, of: &dyn Fn(&ScoredRow) -> Option<f64>) -> Vec<Column> {
    let is_dense = rows.len() as f64 > RIGHT - LEFT;
    let mut columns: Vec<Column> = Vec::new();
    let mut last_ms: Option<i64> = None;
    let mut count = 0.0;
    for row in rows {
        let Some(value) = of(row) else { continue };
        let exact = time.x(row.start_ms);
        let x = if is_dense { exact.round() } else { exact };
        let is_after_gap = last_ms.is_none_or(|last_ms| row.start_ms - last_ms > step_ms);
        last_ms = Some(row.start_ms);
        match columns.last_mut().filter(|column| is_dense && column.x == x) {
            Some(column) => {
                count += 1.0;
                column.least = column.least.min(value);
                column.greatest = column.greatest.max(value);
                column.mean += (value - column.mean) / count;
            }
            None => {
                count = 1.0;
                columns.push(Column { x, is_after_gap, least: value, greatest: value, mean: value });
            }
        }
    }
    columns
}

fn scale(lines: &[&[Column]], panel: Panel) -> Scale {
    let columns = || lines.iter().flat_map(|line| line.iter());
    let least = columns().map(|column| column.least).fold(f64::INFINITY, f64::min);
    let greatest = columns().map(|column| column.greatest).fold(f64::NEG_INFINITY, f64::max);
    if least > greatest {
        return Scale { low: 0.0, high: 1.0, panel };
    }
    // Room for the labels of the highest and the lowest moment.
    let margin = if greatest > least { (greatest - least) * 0.13 } else { greatest.abs().max(1.0) * 0.1 };
    // Zero is shown where the values are not far from it: it is what a count is judged by.
    let low = if least >= 0.0 && least < 0.3 * greatest { 0.0 } else { least - margin };
    Scale { low, high: greatest + margin, panel }
}

fn open(svg: &mut String, picture: &Picture) {
    let (title, subtitle) = (escape(&picture.title), escape(&picture.subtitle));
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" role=\"img\"><title>{title}</title><desc>{subtitle}</desc><style>{STYLE}</style>\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>"
    );
    text(svg, "title", "start", (LEFT, 38.0), &title);
    text(svg, "subtitle", "start", (LEFT, 60.0), &subtitle);
    legend(svg, picture.direction);
    text(svg, "panel", "start", (LEFT, SCORES.top - 12.0), "score, in deviations from the baseline");
}

fn legend(svg: &mut String, direction: Direction) {
    let y = 84.0;
    let limit = match direction {
        Direction::Up => "up to the threshold",
        Direction::Down => "down to the threshold",
        Direction::Both => "within the threshold",
    };
    let _ = write!(svg, "<rect class=\"band\" x=\"{}\" y=\"{}\" width=\"22\" height=\"10\"/>", LEFT + 178.0, y - 9.0);
    line(svg, "value", (LEFT, y - 4.0), (LEFT + 22.0, y - 4.0));
    line(svg, "baseline", (LEFT + 84.0, y - 4.0), (LEFT + 106.0, y - 4.0));
    dot(svg, (LEFT + 371.0, y - 4.0), "");
    for (x, name) in [(28.0, "value"), (112.0, "baseline"), (206.0, limit), (381.0, "moment")] {
        text(svg, "", "start", (LEFT + x, y), name);
    }
}

fn axes(svg: &mut String, time: &TimeScale, values: &Scale, scores: &Scale) {
    for (scale, most) in [(values, 6), (scores, 3)] {
        for tick in value_ticks(scale.low, scale.high, most) {
            let y = scale.y(tick.at);
            line(svg, "grid", (LEFT, y), (RIGHT, y));
            text(svg, "", "end", (LEFT - 10.0, y + 4.0), &tick.label);
        }
        line(svg, "axis", (LEFT, scale.panel.bottom), (RIGHT, scale.panel.bottom));
    }
    for tick in time_ticks(time.from_ms, time.to_ms, 12) {
        let x = time.x(tick.at);
        for panel in [VALUES, SCORES] {
            line(svg, "grid", (x, panel.top), (x, panel.bottom));
        }
        line(svg, "axis", (x, SCORES.bottom), (x, SCORES.bottom + 5.0));
        text(svg, "", "middle", (x, SCORES.bottom + 20.0), &tick.label);
        if let Some(day) = &tick.day {
            text(svg, "day", "middle", (x, SCORES.bottom + 37.0), day);
        }
    }
}

/// A line through the columns: their means, or up and down over all that they hold.
fn path(svg: &mut String, class: &str, columns: &[Column], scale: &Scale, is_full: bool) {
    let mut points = String::new();
    for (index, column) in columns.iter().enumerate() {
        let command = if column.is_after_gap { 'M' } else { 'L' };
        if !is_full {
            let _ = write!(points, "{command}{:.1} {:.1}", column.x, scale.y(column.mean));
            continue;
        }
        let (least, greatest) = (scale.y(column.least), scale.y(column.greatest));
        let _ = write!(points, "{command}{:.1} {least:.1}", column.x);
        if greatest != least {
            let _ = write!(points, "V{greatest:.1}");
        } else if column.is_after_gap && columns.get(index + 1).is_none_or(|next| next.is_after_gap) {
            // A row alone between gaps is a point, not a line that cannot be seen.
            points.push_str("h1");
        }
    }
    let _ = write!(svg, "<path class=\"{class}\" d=\"{points}\"/>");
}

/// The area from the baseline to the threshold, one polygon between gaps.
fn band(svg: &mut String, upper: &[Column], lower: &[Column], scale: &Scale) {
    let mut areas = String::new();
    let mut first = 0;
    for end in 1..=upper.len().min(lower.len()) {
        if end < upper.len() && !upper[end].is_after_gap {
            continue;
        }
        for (index, column) in upper[first..end].iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(areas, "{command}{:.1} {:.1}", column.x, scale.y(column.mean));
        }
        for column in lower[first..end].iter().rev() {
            let _ = write!(areas, "L{:.1} {:.1}", column.x, scale.y(column.mean));
        }
        areas.push('Z');
        first = end;
    }
    let _ = write!(svg, "<path class=\"band\" d=\"{areas}\"/>");
}

/// Dots for all, labels for the highest as far as there is room.
fn moments(svg: &mut String, picture: &Picture, time: &TimeScale, values: &Scale, scores: &Scale) {
    let mut labelled: Vec<(f64, f64)> = Vec::new();
    let mut by_score: Vec<&Moment> = picture.moments.iter().collect();
    by_score.sort_by(|one, other| other.score.total_cmp(&one.score));
    for moment in by_score.iter().rev() {
        let x = time.x(moment.window_start_ms);
        let time = moment_label(moment.window_start_ms, picture.step_ms);
        let value = number(moment.value, (moment.value.abs() / 1e3).max(1e-9));
        let tip = escape(&format!("{time}: {value}, score {:.1}", moment.score));
        dot(svg, (x, scores.y(moment.score)), &tip);
        dot(svg, (x, values.y(moment.value)), &tip);
    }
    for moment in by_score {
        let (x, y) = (time.x(moment.window_start_ms), values.y(moment.value));
        let is_free =
            labelled.iter().all(|(other_x, other_y)| (x - other_x).abs() > 84.0 || (y - other_y).abs() > 28.0);
        if !is_free || labelled.len() >= MOST_LABELS {
            continue;
        }
        labelled.push((x, y));
        let is_low = moment.value < moment.baseline;
        // Below where it is a drop, above else, and never out of the panel.
        let y = if is_low { (y + 18.0).min(VALUES.bottom - 16.0) } else { (y - 22.0).max(VALUES.top + 2.0) };
        let anchor = if x > RIGHT - 40.0 {
            "end"
        } else if x < LEFT + 40.0 {
            "start"
        } else {
            "middle"
        };
        let score = format!("score {:.1}", moment.score);
        text(svg, "label", anchor, (x, y), &escape(&moment_label(moment.window_start_ms, picture.step_ms)));
        text(svg, "label", anchor, (x, y + 13.0), &score);
    }
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = write!(svg, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

fn dot(svg: &mut String, (x, y): (f64, f64), tip: &str) {
    let _ = write!(svg, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.2\"><title>{tip}</title></circle>");
}

/// `content` is escaped already.
fn text(svg: &mut String, class: &str, anchor: &str, (x, y): (f64, f64), content: &str) {
    let _ = write!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>");
}

/// Of XML, in text and attributes; characters that XML 1.0 cannot hold become U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{0}'..='\u{1f}' | '\u{7f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(start_ms: i64, value: Option<f64>) -> ScoredRow {
        ScoredRow {
            start_ms,
            timestamp: String::new(),
            value,
            baseline: value.map(|_| 10.0),
            deviation: value.map(|_| 2.0),
            score: value.map(|value| (value - 10.0) / 2.0),
            threshold: 3.0,
            moment_id: None,
        }
    }

    fn draw(rows: &[ScoredRow]) -> String {
        svg(&Picture {
            title: "<a & \"b\">\u{0}".to_owned(),
            subtitle: String::new(),
            direction: Direction::Up,
            threshold: 3.0,
            step_ms: 1_000,
            rows,
            moments: &[],
        })
    }

    /// The points of the line of values.
    fn values(svg: &str) -> &str {
        let path = svg.split("class=\"value\" d=\"").nth(1).unwrap();
        path.split('"').next().unwrap()
    }

    #[test]
    fn a_hundred_thousand_rows_are_as_many_columns_as_there_are_pixels_and_no_spike_is_lost() {
        let value = |second| if second == 54_321 { 99.0 } else { f64::from(second % 3) };
        let rows: Vec<ScoredRow> =
            (0..100_000).map(|second| row(i64::from(second) * 1_000, Some(value(second)))).collect();
        let svg = draw(&rows);
        assert!(svg.len() < 200_000, "{} bytes", svg.len());
        assert_eq!(values(&svg).matches(['M', 'L']).count(), (RIGHT - LEFT) as usize + 1);
        let points = values(&svg).split(['M', 'L', 'V', ' ']).skip(1);
        let top = points.filter_map(|point| point.parse::<f64>().ok()).fold(f64::INFINITY, f64::min);
        assert!(top < VALUES.top + 0.2 * (VALUES.bottom - VALUES.top), "{top}");
    }

    #[test]
    fn a_line_is_broken_at_a_gap_and_a_lone_row_is_seen() {
        let starts_and_values = [(0, Some(1.0)), (1, Some(2.0)), (2, None), (3, Some(1.0)), (9, Some(2.0))];
        let rows = starts_and_values.map(|(second, value)| row(second * 1_000, value));
        assert_eq!(values(&draw(&rows)).matches('M').count(), 3);
        assert_eq!(values(&draw(&rows)).matches('h').count(), 2);
    }

    #[test]
    fn names_cannot_break_the_picture() {
        assert!(draw(&[]).contains("<title>&lt;a &amp; &quot;b&quot;&gt;\u{fffd}</title>"));
        assert!(!draw(&[row(0, Some(5.0))]).contains("NaN"));
    }
}
