//! Canonical JSON: one text for each value, whoever writes it down.

use serde_json::Value;

/// The largest whole number that every reader of JSON takes for itself: they count in doubles.
const WHOLE_MAX: u64 = (1 << 53) - 1;

/// A value that has no one canonical text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{number} is beyond ±{WHOLE_MAX}, where readers of JSON round differently: to be signed it must be a text")]
pub struct NotCanonical {
    /// Where the number stands, as `metadata.sizes[2]`.
    pub path: String,
    pub number: String,
}

/// The value as RFC 8785 writes it.
///
/// # Errors
/// When it holds a whole number beyond 2⁵³ − 1.
pub fn canonical(value: &Value) -> Result<String, NotCanonical> {
    check(value, "")?;
    Ok(serde_json_canonicalizer::to_string(value).expect("a JSON value has text keys and finite numbers"))
}

fn check(value: &Value, path: &str) -> Result<(), NotCanonical> {
    match value {
        Value::Number(number) => {
            let size = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match size.filter(|size| *size > WHOLE_MAX) {
                Some(_) => Err(NotCanonical { path: path.to_owned(), number: number.to_string() }),
                None => Ok(()),
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(n, item)| check(item, &format!("{path}[{n}]")))
        }
        Value::Object(members) => members.iter().try_for_each(|(name, member)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            check(member, &path)
        }),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        canonical(&serde_json::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn members_are_in_the_order_of_their_utf16() {
        let text = "{\"\u{20ac}\":1,\"\\r\":2,\"\u{fb33}\":3,\"1\":4,\"\u{1f600}\":5,\"\u{80}\":6,\"\u{f6}\":7}";
        let order = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}";
        assert_eq!(of(text), order);
    }

    #[test]
    fn numbers_are_spelled_as_ecmascript_does() {
        for (given, canonical) in [
            ("1.0", "1"),
            ("-0.0", "0"),
            ("1e21", "1e+21"),
            ("1E20", "100000000000000000000"),
            ("0.000001", "0.000001"),
            ("0.0000001", "1e-7"),
            ("333333333.33333329", "333333333.3333333"),
            ("4.50", "4.5"),
            ("9007199254740991", "9007199254740991"),
            // A parser that does not round exactly is one off here.
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
            ("123456789.1234567891", "123456789.12345679"),
        ] {
            assert_eq!(of(given), canonical, "{given}");
        }
    }

    #[test]
    fn what_readers_round_differently_is_refused_by_name() {
        for (text, path) in [
            ("9007199254740992", ""),
            (r#"{"metadata":{"sizes":[1,2,-9007199254740993]}}"#, "metadata.sizes[2]"),
            (r#"{"n":18446744073709551615}"#, "n"),
        ] {
            let fault = canonical(&serde_json::from_str(text).unwrap()).unwrap_err();
            assert_eq!(fault.path, path, "{fault}");
        }
    }

    #[test]
    fn strings_are_escaped_no_more_than_they_must_be() {
        assert_eq!(of(r#""\u00dc\u0001\/\u0022\u005c\n\u007f""#), "\"\u{dc}\\u0001/\\\"\\\\\\n\u{7f}\"");
    }
}
