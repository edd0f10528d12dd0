//! Numbers of several repetitions, and how they are written.

/// What several repetitions came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

impl Summary {
    /// None of nothing.
    pub(crate) fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min, max, count: sorted.len() })
    }
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    PerS,
    Us,
    Ms,
    Bytes,
    Times,
    Count,
}

impl Unit {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::PerS => "/s",
            Self::Us => "µs",
            Self::Ms => "ms",
            Self::Bytes => "B",
            Self::Times => "×",
            Self::Count => "",
        }
    }

    /// A number with its unit.
    pub(crate) fn show(self, number: f64) -> String {
        match self {
            Self::Count => number_text(number),
            Self::Times => format!("{}×", number_text(number)),
            unit => format!("{} {}", number_text(number), unit.word()),
        }
    }
}

/// Three significant digits, and thousands apart.
pub(crate) fn number_text(number: f64) -> String {
    let size = number.abs();
    if size >= 100.0 {
        return thousands(number.round() as i64);
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    let digits = match size {
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{number:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_that_of_the_sorted_numbers() {
        let summary = |numbers: &[f64]| Summary::of(numbers).map(|s| (s.median, s.min, s.max, s.count));
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0, 3)));
        assert_eq!(summary(&[4.0, 1.0]), Some((2.5, 1.0, 4.0, 2)));
    }

    #[test]
    fn numbers_have_three_digits_and_thousands_apart() {
        let texts = [0.0, 0.066, 1.0, 2.346, 45.67, 99.96, 100.4, 999.6, 12_345.6, 1_234_567.0, -1_500.0];
        let texts: Vec<_> = texts.iter().map(|number| number_text(*number)).collect();
        let expected = ["0", "0.066", "1", "2.35", "45.7", "100", "100", "1,000", "12,346", "1,234,567", "-1,500"];
        assert_eq!(texts, expected);
        assert_eq!(Unit::PerS.show(25_000.0), "25,000 /s");
        assert_eq!(Unit::Times.show(1.5), "1.5×");
    }
}
