//! What a command has to say goes to standard output, as a table for people or as JSON for programs.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// Writes text and flushes it. A reader that went away has seen enough: that is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_while_read(text).map(drop)
}

/// Writes text and flushes it. False when the reader went away.
pub(crate) fn print_while_read(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(source) => Err(Failure::Print { source }),
    }
}

/// Tells people something that is no part of the answer.
pub(crate) fn note(text: &str) {
    // Nobody is left to tell when standard error is gone too.
    let _ = writeln!(io::stderr(), "rollcall: {text}");
}

/// Says something on standard error as it is.
pub(crate) fn tell(text: &str) {
    // Nobody is left to tell when standard error is gone too.
    let _ = write!(io::stderr(), "{text}");
}

/// Says how far something is, in place of what was said before. To people only.
pub(crate) fn progress(text: &str) {
    if io::stderr().is_terminal() {
        tell(&format!("\r\x1b[K{text}"));
    }
}

/// A size for people.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let unit = (bytes.checked_ilog2().unwrap_or(0) / 10).min(UNITS.len() as u32 - 1);
    if unit == 0 {
        return format!("{bytes} bytes");
    }
    format!("{:.1} {}", bytes as f64 / (1u64 << (10 * unit)) as f64, UNITS[unit as usize])
}

/// Prints `value` as JSON, or as the text that `table` makes of it.
pub(crate) fn show<T: Serialize>(format: Format, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    let text = match format {
        Format::Json => {
            let json = serde_json::to_string_pretty(value).map_err(|source| Failure::Render { source })?;
            json + "\n"
        }
        Format::Table => table(value),
    };
    print(&text)
}

/// Columns as wide as their widest cell, two blanks apart.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values come from other people's programs and must not drive the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `key  value` lines.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    pairs.iter().map(|(key, value)| format!("{key:<width$}  {}\n", printable(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(vec!["übersetzer".into(), "a".into()]);
        table.row(vec!["b".into(), "c\u{1b}[2J".into()]);
        assert_eq!(table.render(), "ID          NAME\nübersetzer  a\nb           c\u{fffd}[2J\n");
    }

    #[test]
    fn sizes_have_units() {
        let sizes = [0, 1, 1_023, 1_024, 1_536, 5 << 20, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 bytes", "1 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 MiB", "16777216.0 TiB"]);
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(fields(&[("id", "a".into()), ("revision", "7".into())]), "id        a\nrevision  7\n");
    }
}
