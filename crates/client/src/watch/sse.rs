//! Server-Sent Events out of bytes that come in pieces.
//!
//! What a node sends is understood whole: names, ids, data of several lines, comments, and lines that end in LF, CR or
//! both. `retry` is left out, because how to come back is decided here. A piece may end anywhere.

/// A change carries one service object, and that is at most a registration of 64 KiB with what the roll says of it;
/// escaped, a byte may take six.
pub(crate) const EVENT_SIZE_MAX: usize = 1 << 20;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) event: String,
    /// What this event itself said; an earlier event's is not carried over.
    pub(crate) id: Option<String>,
    pub(crate) data: Vec<u8>,
}

/// An event is larger than [`EVENT_SIZE_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Holds what is not yet a whole event, and never more than the largest event and one piece.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    /// Where the line begins that is not read yet.
    line_start: usize,
    /// Up to where that line has no end.
    searched: usize,
    /// The last line ended in CR: an LF right after it belongs to that end.
    after_cr: bool,
    frame: Frame,
    has_data: bool,
}

impl Decoder {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.line_start);
        self.searched -= self.line_start;
        self.line_start = 0;
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole event among what was pushed.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, TooLarge> {
        while let Some((start, end)) = self.next_line() {
            if start == end {
                let frame = std::mem::take(&mut self.frame);
                if std::mem::take(&mut self.has_data) {
                    return Ok(Some(frame));
                }
            } else {
                self.take_line(start, end)?;
            }
        }
        // Of a line whose end has not come yet, too much is too much already.
        if self.buffer.len() - self.line_start > EVENT_SIZE_MAX { Err(TooLarge) } else { Ok(None) }
    }

    /// Where the next whole line begins and ends in the buffer.
    fn next_line(&mut self) -> Option<(usize, usize)> {
        if self.after_cr && self.line_start < self.buffer.len() {
            self.after_cr = false;
            if self.buffer[self.line_start] == b'\n' {
                self.line_start += 1;
                self.searched = self.line_start;
            }
        }
        let Some(length) = self.buffer[self.searched..].iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            self.searched = self.buffer.len();
            return None;
        };
        let (start, end) = (self.line_start, self.searched + length);
        self.after_cr = self.buffer[end] == b'\r';
        self.line_start = end + 1;
        self.searched = self.line_start;
        Some((start, end))
    }

    fn take_line(&mut self, start: usize, end: usize) -> Result<(), TooLarge> {
        let line = &self.buffer[start..end];
        let (name, value) = match line.iter().position(|&byte| byte == b':') {
            // A comment: it only shows that the connection lives.
            Some(0) => return Ok(()),
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if self.frame.data.len() + value.len() > EVENT_SIZE_MAX {
            return Err(TooLarge);
        }
        match name {
            b"event" => self.frame.event = String::from_utf8_lossy(value).into_owned(),
            b"id" => self.frame.id = Some(String::from_utf8_lossy(value).into_owned()),
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.frame.data.push(b'\n');
                }
                self.frame.data.extend_from_slice(value);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(event: &str, id: Option<&str>, data: &str) -> Frame {
        Frame { event: event.to_owned(), id: id.map(str::to_owned), data: data.as_bytes().to_vec() }
    }

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Frame> {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.push(piece);
            while let Some(frame) = decoder.next().expect("no event is too large") {
                frames.push(frame);
            }
        }
        frames
    }

    #[test]
    fn events_have_a_name_an_id_and_data_of_several_lines() {
        let text = ": hello\n\nevent: change\nid: 0-7\ndata: {\"a\":\ndata:1}\n\ndata\n\nevent: nothing\n\nretry: 3\nid: x\n\n\
                    data:  two: b\nunknown: c\n\ndata: never ended";
        let expected = [frame("change", Some("0-7"), "{\"a\":\n1}"), frame("", None, ""), frame("", None, " two: b")];
        assert_eq!(decode([text.as_bytes()]), expected);
    }

    #[test]
    fn a_piece_may_end_anywhere_and_a_line_in_three_ways() {
        let text = "event: a\ndata: ü1\n:\n\nevent: b\nid: 0-1\ndata: 2\ndata: 3\n\n";
        let expected = [frame("a", None, "ü1"), frame("b", Some("0-1"), "2\n3")];
        for line_end in ["\n", "\r", "\r\n"] {
            let bytes = text.replace('\n', line_end).into_bytes();
            for size in 1..=bytes.len() {
                assert_eq!(decode(bytes.chunks(size)), expected, "{line_end:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn an_event_is_bounded_whether_its_lines_end_or_not() {
        let piece = vec![b'x'; EVENT_SIZE_MAX / 4];
        let endless_line = |decoder: &mut Decoder| decoder.push(&piece);
        let endless_lines = |decoder: &mut Decoder| {
            decoder.push(b"data:");
            decoder.push(&piece);
            decoder.push(b"\n");
        };
        for push in [&endless_line as &dyn Fn(&mut Decoder), &endless_lines] {
            let mut decoder = Decoder::default();
            for _ in 0..3 {
                push(&mut decoder);
                assert_eq!(decoder.next(), Ok(None));
            }
            push(&mut decoder);
            push(&mut decoder);
            assert_eq!(decoder.next(), Err(TooLarge));
        }
    }

    #[test]
    fn many_events_are_not_one_large_one() {
        let event = [b"data: ".to_vec(), vec![b'x'; EVENT_SIZE_MAX / 2], b"\n\n".to_vec()].concat();
        let all = event.repeat(5);
        assert_eq!(decode([&all[..]]).len(), 5);
    }
}
