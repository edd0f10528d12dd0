//! The picture: how many times better Rollcall is than etcd, on a logarithmic scale; where there was no etcd, than its
//! own goals.

use std::fmt::Write;

use crate::figures::{Unit, number_text};
use crate::rows::{Goal, Row};
use crate::store::{Record, Target};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 352.0;
/// Behind the longest bar, for what stands beside it.
const RIGHT: f64 = 190.0;
const TOP: f64 = 70.0;
const LINE: f64 = 26.0;
const BAR: f64 = 16.0;

const BETTER: &str = "#2f6f5e";
const WORSE: &str = "#b4532a";

struct Bar {
    label: String,
    ratio: f64,
    beside: String,
}

pub(crate) fn render(rows: &[Row], records: &[Record]) -> String {
    let against_etcd = bars_against_etcd(rows, records);
    let (title, bars) = if against_etcd.is_empty() {
        ("Rollcall against its own goals", bars_against_goals(rows, records))
    } else {
        ("Rollcall against etcd", against_etcd)
    };
    draw(title, &bars)
}

fn bars_against_etcd(rows: &[Row], records: &[Record]) -> Vec<Bar> {
    let bar = |(label, row): (String, &Row)| {
        let own = row.cell(records, Target::Rollcall).summary?.median;
        let other = row.cell(records, Target::Etcd).summary?.median;
        let beside = format!("{} : {}", number_text(own), row.unit.show(other));
        Some(Bar { label, ratio: row.goal.ratio(own, other)?, beside })
    };
    labelled(rows).filter_map(bar).collect()
}

fn bars_against_goals(rows: &[Row], records: &[Record]) -> Vec<Bar> {
    let bar = |(label, row): (String, &Row)| {
        let own = row.cell(records, Target::Rollcall).summary?.median;
        let (Goal::AtLeast(goal) | Goal::AtMost(goal)) = row.goal else { return None };
        Some(Bar {
            label,
            ratio: row.goal.ratio(own, goal)?,
            beside: format!("{} : {}", number_text(own), row.unit.show(goal)),
        })
    };
    labelled(rows).filter_map(bar).collect()
}

/// Rows with a label that can stand alone: `…` means the row before that has none.
fn labelled(rows: &[Row]) -> impl Iterator<Item = (String, &Row)> {
    let mut head = "";
    rows.iter().map(move |row| match row.title.strip_prefix("… ") {
        None => {
            head = &row.title;
            (row.title.clone(), row)
        }
        Some(rest) => (format!("{}: {rest}", head.split(", p99").next().unwrap_or(head)), row),
    })
}

fn draw(title: &str, bars: &[Bar]) -> String {
    let height = TOP + LINE * bars.len() as f64 + 40.0;
    let logs = bars.iter().map(|bar| bar.ratio.log2());
    let low = logs.clone().fold(-1.0, f64::min).floor();
    let high = logs.fold(1.0, f64::max).ceil();
    let scale = (WIDTH - LABELS - RIGHT) / (high - low);
    let x = |log: f64| LABELS + (log - low) * scale;

    let mut svg = String::new();
    // A string takes whatever is written to it.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12.5\" role=\"img\" aria-labelledby=\"title\">\n  \
         <title id=\"title\">{title}</title>\n  \
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"10\" fill=\"#fbfbf9\"/>\n  \
         <text x=\"24\" y=\"30\" font-size=\"15\" font-weight=\"600\" fill=\"#22375f\">{title}</text>\n  \
         <text x=\"24\" y=\"48\" font-size=\"11.5\" fill=\"#5a6a8c\">how many times better, on a logarithmic scale; in \
         brackets what is compared</text>\n"
    );
    let bottom = TOP + LINE * bars.len() as f64;
    // A line for each doubling, and fewer where these would be crowded.
    let step = if high - low > 8.0 { 2 } else { 1 };
    for log in (low as i32..=high as i32).filter(|log| log % step == 0) {
        let at = x(f64::from(log));
        let stroke = if log == 0 { "#4a5d86" } else { "#dfe3ea" };
        let _ = write!(
            svg,
            "  <path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"{stroke}\"/>\n  \
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#5a6a8c\">{}</text>\n",
            bottom + 18.0,
            tick(log),
        );
    }
    for (place, bar) in bars.iter().enumerate() {
        let y = TOP + LINE * place as f64 + (LINE - BAR) / 2.0;
        let (zero, end) = (x(0.0), x(bar.ratio.log2()));
        let (left, width) = (zero.min(end), (end - zero).abs().max(1.0));
        let fill = if bar.ratio >= 1.0 { BETTER } else { WORSE };
        let text_y = y + BAR - 4.0;
        let _ = write!(
            svg,
            "  <text x=\"{:.1}\" y=\"{text_y:.1}\" text-anchor=\"end\" fill=\"#22375f\">{}</text>\n  \
             <rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"3\" fill=\"{fill}\"/>\n  \
             <text x=\"{:.1}\" y=\"{text_y:.1}\" fill=\"#4a5d86\"><tspan font-weight=\"600\">{}</tspan> ({})</text>\n",
            LABELS - 12.0,
            escaped(&shortened(&bar.label)),
            zero.max(end) + 8.0,
            Unit::Times.show(bar.ratio),
            escaped(&bar.beside),
        );
    }
    if bars.is_empty() {
        let _ = writeln!(svg, "  <text x=\"24\" y=\"{:.1}\" fill=\"#4a5d86\">nothing was measured</text>", TOP + 8.0);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A power of two as it stands at the scale.
fn tick(log: i32) -> String {
    let times = 1_u64 << log.unsigned_abs().min(63);
    if log < 0 { format!("1/{times}") } else { format!("{times}×") }
}

/// A label that fits in front of the bars.
fn shortened(label: &str) -> String {
    const CHARS_MAX: usize = 50;
    let label = label.replace("processor time of all three servers, each", "CPU per operation");
    if label.chars().count() <= CHARS_MAX {
        return label;
    }
    label.chars().take(CHARS_MAX - 1).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
