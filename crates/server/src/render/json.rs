//! Writing JSON by hand, where the text that a serializer would make is known but for its values.

use jiff::Timestamp;
use rollcall_registry::WallTime;

/// Appends JSON.
pub(super) struct Json<'a>(pub(super) &'a mut Vec<u8>);

impl Json<'_> {
    /// What is JSON already, or a part of it.
    pub(super) fn raw(&mut self, json: &str) -> &mut Self {
        self.0.extend_from_slice(json.as_bytes());
        self
    }

    /// A string.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        // Without a way out of the loop, so that many bytes are looked at at once.
        let escapes = |found, byte| found | (byte < b' ') | (byte == b'"') | (byte == b'\\');
        if text.bytes().fold(false, escapes) {
            serde_json::to_writer(&mut *self.0, text).expect("writing into memory does not fail");
        } else {
            self.0.reserve(text.len() + 2);
            self.0.push(b'"');
            self.0.extend_from_slice(text.as_bytes());
            self.0.push(b'"');
        }
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.raw(itoa::Buffer::new().format(number))
    }

    pub(super) fn float(&mut self, number: f64) -> &mut Self {
        serde_json::to_writer(&mut *self.0, &number).expect("writing into memory does not fail");
        self
    }

    /// `name` with a string, if there is one.
    pub(super) fn option(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.raw(name).text(text),
            None => self,
        }
    }

    /// Each item as `write` writes it, with commas between them.
    pub(super) fn items<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        write: impl for<'s> Fn(&'s mut Self, T) -> &'s mut Self,
    ) -> &mut Self {
        for (n, item) in items.into_iter().enumerate() {
            if n > 0 {
                self.0.push(b',');
            }
            write(self, item);
        }
        self
    }

    pub(super) fn texts<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) -> &mut Self {
        self.raw("[").items(texts, |json, text| json.text(text)).raw("]")
    }
}

const DAY_MS: u64 = 86_400_000;

/// Writes instants as RFC 3339 in UTC with milliseconds. The times of one answer lie close together: only another day
/// needs the calendar.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// A day since 1970, and its date up to the `T`.
    day: Option<(u64, String)>,
}

impl Clock {
    pub(super) fn write(&mut self, wall: WallTime, out: &mut Vec<u8>) {
        let (day, time_ms) = (wall.0 / DAY_MS, wall.0 % DAY_MS);
        let date = match &mut self.day {
            Some((known, date)) if *known == day => date,
            _ => {
                let midnight = rfc3339(WallTime(day * DAY_MS));
                let Some(length) = midnight.find('T').filter(|_| last_day() > day) else {
                    return out.extend_from_slice(rfc3339(wall).as_bytes());
                };
                &mut self.day.insert((day, midnight[..=length].to_owned())).1
            }
        };
        out.extend_from_slice(date.as_bytes());
        let digits = |number: u64, place: u64| b'0' + (number / place % 10) as u8;
        let (seconds, ms) = (time_ms / 1_000, time_ms % 1_000);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        out.extend_from_slice(&[
            digits(hour, 10),
            digits(hour, 1),
            b':',
            digits(minute, 10),
            digits(minute, 1),
            b':',
            digits(second, 10),
            digits(second, 1),
            b'.',
            digits(ms, 100),
            digits(ms, 10),
            digits(ms, 1),
            b'Z',
        ]);
    }
}

/// The day that ends after the latest instant that can be written.
fn last_day() -> u64 {
    u64::try_from(Timestamp::MAX.as_millisecond()).map_or(0, |ms| ms / DAY_MS)
}

/// RFC 3339 in UTC with milliseconds; the latest instant that can be written for one beyond it.
pub(crate) fn rfc3339(wall: WallTime) -> String {
    let millisecond = i64::try_from(wall.0).unwrap_or(i64::MAX);
    let instant = Timestamp::from_millisecond(millisecond).unwrap_or(Timestamp::MAX);
    format!("{instant:.3}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn instants_are_what_the_calendar_says(first in any::<u64>(), near in 0..300_000_000_000_000u64, step in 0..200_000_000u64) {
            let mut clock = Clock::default();
            for wall in [near, near + step, near, first, near + 2 * step] {
                let mut out = Vec::new();
                clock.write(WallTime(wall), &mut out);
                prop_assert_eq!(String::from_utf8(out).unwrap(), rfc3339(WallTime(wall)));
            }
        }

        #[test]
        fn texts_are_what_a_serializer_writes(text in "(\\PC|[\\x00-\\x22\\x5c\\x7f]){0,40}") {
            let mut out = Vec::new();
            Json(&mut out).text(&text);
            prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }
}
