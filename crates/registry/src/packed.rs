//! How a value of many parts becomes one text: every part with its length before it.
//!
//! A number is written in digits of six bits, the lowest first, each in a byte below 128 with a bit that says whether
//! another follows. So the whole is UTF-8 if its parts are: it is checked once, and parts are cut out of it for nothing.
//! A value has one spelling only, so that equal values are equal texts.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{Error, Visitor};

use crate::ids::NameError;

/// The text is not what any value is packed into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a packed text ends early")]
    Short,
    #[error("a packed text goes on after its end")]
    Long,
    #[error("a packed number is spelled wrong")]
    Number,
    #[error("a packed number stands for no known word")]
    Word,
    #[error("what is packed is out of order")]
    Order,
    #[error("a packed name {0}")]
    Name(#[from] NameError),
}

const DIGIT_BITS: u32 = 6;
const DIGIT_MASK: u64 = (1 << DIGIT_BITS) - 1;
const MORE: u8 = 1 << DIGIT_BITS;

#[derive(Debug, Default)]
pub(crate) struct Packer(String);

impl Packer {
    pub(crate) fn number(&mut self, number: u64) {
        let mut rest = number;
        while rest > DIGIT_MASK {
            self.0.push(char::from((rest & DIGIT_MASK) as u8 | MORE));
            rest >>= DIGIT_BITS;
        }
        self.0.push(char::from(rest as u8));
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.push_str(text);
    }

    pub(crate) fn option(&mut self, text: Option<&str>) {
        match text {
            None => self.number(0),
            Some(text) => {
                self.number(text.len() as u64 + 1);
                self.0.push_str(text);
            }
        }
    }

    /// What `pack` packs, as one part that a reader can skip.
    pub(crate) fn section(&mut self, pack: impl FnOnce(&mut Self)) {
        let mut section = Self::default();
        pack(&mut section);
        self.text(&section.0);
    }

    /// As it stands: its length was packed by the caller, or it is all that is left.
    pub(crate) fn rest(&mut self, text: &str) {
        self.0.push_str(text);
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What of a packed text is still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacker<'a>(pub(crate) &'a str);

impl<'a> Unpacker<'a> {
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        match self.0.as_bytes() {
            // Nearly all are of one digit.
            [digit, ..] if *digit < MORE => {
                let number = u64::from(*digit);
                self.0 = &self.0[1..];
                Ok(number)
            }
            _ => self.long_number(),
        }
    }

    fn long_number(&mut self) -> Result<u64, Malformed> {
        let bytes = self.0.as_bytes();
        let (mut number, mut shift) = (0, 0);
        for (at, &byte) in bytes.iter().enumerate() {
            let digit = u64::from(byte) & DIGIT_MASK;
            let is_canonical = byte < 2 * MORE && (digit > 0 || byte & MORE > 0 || at == 0);
            if !is_canonical || shift >= u64::BITS || digit > u64::MAX >> shift {
                return Err(Malformed::Number);
            }
            number |= digit << shift;
            shift += DIGIT_BITS;
            if byte & MORE == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(number);
            }
        }
        Err(Malformed::Short)
    }

    pub(crate) fn number32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed::Number)
    }

    #[inline]
    pub(crate) fn take(&mut self, bytes: u64) -> Result<&'a str, Malformed> {
        let bytes = usize::try_from(bytes).map_err(|_| Malformed::Short)?;
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.number()?;
        self.take(bytes)
    }

    pub(crate) fn option(&mut self) -> Result<Option<&'a str>, Malformed> {
        match self.number()?.checked_sub(1) {
            None => Ok(None),
            Some(bytes) => self.take(bytes).map(Some),
        }
    }

    /// One of the words of an enum, by its place among them.
    pub(crate) fn word<T: Copy>(&mut self, all: &[T]) -> Result<T, Malformed> {
        let place = usize::try_from(self.number()?).map_err(|_| Malformed::Word)?;
        all.get(place).copied().ok_or(Malformed::Word)
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed::Long) }
    }
}

/// What a section can be a list of.
pub trait Part<'a>: Sized {
    #[doc(hidden)]
    fn unpack(rest: &mut Unpacker<'a>) -> Result<Self, Malformed>;
}

impl<'a> Part<'a> for &'a str {
    fn unpack(rest: &mut Unpacker<'a>) -> Result<Self, Malformed> {
        rest.text()
    }
}

/// Parts of one sort, one after the other to the end of a section.
pub struct Parts<'a, P> {
    rest: Unpacker<'a>,
    of: PhantomData<P>,
}

/// A list of texts.
pub type Texts<'a> = Parts<'a, &'a str>;

impl<'a, P: Part<'a>> Parts<'a, P> {
    /// The parts of a section that is yet to be checked.
    pub(crate) fn of(section: &'a str) -> Self {
        Self { rest: Unpacker(section), of: PhantomData }
    }

    /// Goes through the section; one that is whole can be iterated.
    pub(crate) fn check(self) -> Result<(), Malformed> {
        let mut rest = self.rest;
        while !rest.is_empty() {
            P::unpack(&mut rest)?;
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn contains(self, part: &P) -> bool
    where
        P: PartialEq,
    {
        { self }.any(|each| each == *part)
    }
}

impl<'a, P: Part<'a>> Iterator for Parts<'a, P> {
    type Item = P;

    fn next(&mut self) -> Option<P> {
        (!self.rest.is_empty()).then(|| P::unpack(&mut self.rest).expect("a packed text is checked when it comes in"))
    }
}

impl<P> Clone for Parts<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Parts<'_, P> {}

impl<P> Default for Parts<'_, P> {
    fn default() -> Self {
        Self { rest: Unpacker(""), of: PhantomData }
    }
}

impl<'a, P: Part<'a> + fmt::Debug> fmt::Debug for Parts<'a, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

/// Reads a text that comes from a log, a disk or a peer. What is malformed is refused here and nowhere later.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T, F: fmt::Display>(
    deserializer: D,
    check: fn(&str) -> Result<T, F>,
) -> Result<T, D::Error> {
    struct Checked<T, F>(fn(&str) -> Result<T, F>);

    impl<T, F: fmt::Display> Visitor<'_> for Checked<T, F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.0)(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Checked(check))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_have_one_spelling() {
        for number in [0, 1, 63, 64, 4095, 4096, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut packer = Packer::default();
            packer.number(number);
            let mut unpacker = Unpacker(packer.as_str());
            assert_eq!(unpacker.number(), Ok(number));
            assert_eq!(unpacker.end(), Ok(()));
        }
        let read = |text: &str| Unpacker(text).number();
        assert_eq!(read(""), Err(Malformed::Short));
        assert_eq!(read("\x41"), Err(Malformed::Short), "a digit is missing");
        assert_eq!(read("\x41\0"), Err(Malformed::Number), "one, with a zero before it");
        assert_eq!(read("é"), Err(Malformed::Number));
        assert_eq!(read(&"\x7f".repeat(11)), Err(Malformed::Number), "more than 64 bits");
    }

    #[test]
    fn a_length_that_promises_too_much_or_cuts_a_letter_is_refused() {
        assert_eq!(Unpacker("\x03ab").text(), Err(Malformed::Short));
        assert_eq!(Unpacker("\x01é").text(), Err(Malformed::Short));
        assert_eq!(Unpacker("\x02é").text(), Ok("é"));
        assert_eq!(Unpacker("\0").option(), Ok(None));
        assert_eq!(Unpacker("\x01").option(), Ok(Some("")));
        assert_eq!(Texts::of("\x01a\x02b").check(), Err(Malformed::Short));
    }
}
