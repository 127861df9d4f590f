//! Medians and the printed table.

/// The middle value; the lower one of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

/// The value below which `share` (0 to 1) of the sorted values lie.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// One line of the result: what was measured, its median of all runs, and the runs themselves.
pub fn line(name: &str, unit: &str, values: &[f64]) {
    let runs: Vec<String> = values.iter().map(|value| number(*value)).collect();
    println!("  {name:<44} {:>12} {unit:<8} of {}", number(median(values)), runs.join(" "));
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{:.0}", value) } else { format!("{value:.2}") }
}
