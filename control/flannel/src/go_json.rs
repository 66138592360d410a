//! JSON objects as Go's `encoding/json` reads them into a struct: keys match without regard to case, the last of several
//! wins, `null` changes nothing, and unknown keys are ignored.

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// An object whose values are read when they are asked for.
pub struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// Reads the text of an object. `null` is an empty one.
    ///
    /// # Errors
    /// The text is not JSON, or not an object; with line and column.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        Ok(serde_json::from_str::<Option<Self>>(text)?.unwrap_or(Self(Vec::new())))
    }

    /// The JSON text of a key's value, as it was written. None: there is none, or `null`.
    pub fn text(&self, key: &str) -> Option<&str> {
        let mut found = None;
        for (name, value) in &self.0 {
            if value.get() != "null" && folds_to(name, key) {
                found = Some(value.get());
            }
        }
        found
    }

    /// The value of a key.
    ///
    /// # Errors
    /// It is of another type: the key, what it holds and what was wrong with that.
    pub fn get<T: DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, WrongValue> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match serde_json::from_str(text) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(WrongValue { key, found: shorten(text), reason: strip_place(&error) }),
        }
    }
}

/// A value that is not what its key asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {found}: {reason}")]
pub struct WrongValue {
    /// The key, as it is documented.
    pub key: &'static str,
    /// What it holds, shortened.
    pub found: String,
    /// What was wrong with that.
    pub reason: String,
}

/// Text for a message, not longer than a line.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The place is within the value only, which would mislead.
pub(crate) fn strip_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Go's rule: simple case folding. Beside ASCII's letters two signs fold to letters of ASCII.
fn folds_to(name: &str, key: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(key.chars().map(fold))
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Object(pairs))
            }
        }
        from.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_as_in_go() {
        let object =
            Object::parse(r#"{"network":"a","NETWORK":"b","Other":{},"bac\u212aend":1,"x":null}"#).unwrap();
        assert_eq!(object.get::<String>("Network"), Ok(Some("b".to_owned())), "the last wins");
        assert_eq!(object.get::<u8>("Backend"), Ok(Some(1)), "the Kelvin sign folds to k");
        assert_eq!(object.get::<u8>("X"), Ok(None), "null is as absent");
        assert_eq!(object.get::<u8>("Y"), Ok(None));
        let error = object.get::<u8>("Network").unwrap_err();
        assert_eq!(error.to_string(), r#"Network is "b": invalid type: string "b", expected u8"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "1", "{\"a\":1", "{\"a\":1}}", "{a:1}"] {
            assert!(Object::parse(text).is_err(), "{text}");
        }
        assert!(Object::parse("null").is_ok_and(|o| o.0.is_empty()));
    }
}
